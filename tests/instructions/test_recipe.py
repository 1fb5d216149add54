import pytest

from instructrec_jax.instructions.sources import READERS, documents_of, units_of
from instructrec_jax.instructions.sources.corpus import corpora_from_flags, corpus_of
from instructrec_jax.instructions.tasks import TASKS


def test_a_sound_recipe_has_no_problems(recipe):
    assert recipe().problems() == []
    built_in = {"python_definition", "prose", "locale", "package"}
    assert recipe().chosen_tasks == tuple(n for n, t in TASKS.items() if built_in & set(t.kinds))


def test_tasks_follow_from_the_sources(recipe):
    chosen = recipe(sources=("package_metadata",)).chosen_tasks
    assert {"complete_passage", "fill_blanks", "summarise_package"} <= set(chosen)
    assert not {"find_bug", "translate_dates", "name_topic"} & set(chosen)
    assert recipe(tasks=("find_bug", "write_body")).chosen_tasks == ("write_body", "find_bug")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sources": ("python_cod",)}, "build.sources: unknown name 'python_cod'; did you mean"),
        ({"sources": ()}, "no raw corpus"),
        ({"tasks": ("find_bugs",)}, "did you mean 'find_bug'"),
        ({"holdout_tasks": ("nothing_like_it_here",)}, "build.holdout_tasks: unknown name"),
        ({"languages": ("english",)}, "'english' is no CLDR locale"),
        ({"languages": ("en",)}, "leave out 'en'"),
        ({"languages": ()}, "needs a language besides English"),
        ({"sources": ("locale_names",), "tasks": ("find_bug",)}, "find_bug needs documents of"),
        ({"holdout_phrasings": 10}, "leaves no template of"),
        ({"holdout_phrasings": -1}, "is below 0"),
        ({"tasks": ("find_bug",), "holdout_tasks": ("find_bug",)}, "every task is held out"),
        ({"test_fraction": 0.95}, "leave nothing to train"),
        ({"test_fraction": float("nan")}, "build.test_fraction: nan is no number"),
        ({"validation_fraction": -0.1}, "build.validation_fraction: -0.1 is below 0"),
        ({"execution_seconds": float("nan")}, "build.execution_seconds: nan is no number"),
        ({"execution_seconds": float("inf")}, "build.execution_seconds: inf is no number"),
        ({"phrasings_per_example": 0}, "is below 1"),
        ({"execution_seconds": 0.0}, "must be above 0"),
        ({"execution_mebibytes": 1}, "is below 64"),
    ],
)
def test_problems_name_the_key(recipe, changes, problem):
    found = recipe(**changes).problems()
    assert any(problem in line for line in found), found


def test_all_problems_are_told_at_once(recipe):
    found = recipe(sources=("a",), tasks=("b",), languages=("xx",), test_fraction=2.0).problems()
    assert len(found) == 4


def own(recipe, *entries, **changes):
    """The problems of a recipe of these corpora alone."""
    names = tuple(entry["name"] for entry in entries if entry.get("name"))
    return recipe(**{"sources": names, "corpora": entries, **changes}).problems()


def test_an_entry_that_is_no_mapping_is_told(recipe):
    found = recipe(sources=("python_code",), corpora=(3,)).problems()
    assert found == ["build.corpora[0]: 3 is no mapping of a corpus"]


def test_own_corpora_give_the_tasks_of_their_kinds(recipe, tmp_path):
    (tmp_path / "a.po").write_text("")
    entries = (
        {"name": "code", "reader": "python", "path": str(tmp_path)},
        {"name": "app", "reader": "gettext", "path": str(tmp_path)},
    )
    assert own(recipe, *entries) == []
    made = recipe(sources=("app",), corpora=entries[1:])
    assert "translate_messages" in made.chosen_tasks
    assert not {"write_body", "complete_passage"} & set(made.chosen_tasks)
    both = recipe(sources=("code", "app"), corpora=entries)
    assert "write_body" in both.tasks_of("code") and both.tasks_of("app") == made.chosen_tasks
    assert recipe(sources=("app",), corpora=list(entries[1:])) == made


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reader": "markdwn"}, "unknown reader 'markdwn'; did you mean 'markdown'?"),
        ({"reader": "zzz"}, "unknown reader 'zzz'; there are text, markdown"),
        ({"encodng": "x"}, "the reader text has no option 'encodng'; did you mean 'encoding'?"),
        ({"encoding": "utf-99"}, "encoding: unknown encoding 'utf-99'"),
        ({"path": "nowhere/at/all"}, "path: there is no nowhere/at/all"),
        ({"path": "nowhere/*.txt"}, "path: there is no folder nowhere"),
        ({"path": ""}, "path is missing"),
        ({"path": 3}, "path takes a text, not 3"),
        ({"together": "folder"}, "together: 'folder' is not file or passage"),
        ({"files": (1,)}, "files takes texts, not (1,)"),
        ({"language": True}, "language takes a text, not True"),
        ({"name": "python_code"}, "another corpus has this name"),
        ({"reader": "records", "fields": "title"}, "fields takes {name: column, ...}"),
        ({"reader": "records", "format": "xls"}, "format: 'xls' is not one of json_lines, json"),
        ({"reader": "gettext", "source_language": "zz"}, "'zz' is no CLDR locale"),
        ({"reader": "parallel"}, "has no {language} where the files' names differ"),
        ({"reader": "parallel_subtitles"}, "languages: name two or more"),
    ],
)
def test_problems_of_own_corpora(recipe, tmp_path, changes, problem):
    entry = {"name": "mine", "reader": "text", "path": str(tmp_path), **changes}
    found = own(recipe, entry)
    assert any(problem in line and "\n" not in line for line in found), found
    assert all("build.corpora" in line for line in found if problem in line)


def test_a_corpus_that_no_source_names_is_told(recipe, tmp_path):
    entry = {"name": "mine", "reader": "text", "path": str(tmp_path)}
    (line,) = recipe(corpora=(entry,)).problems()
    assert line == "build.corpora: mine is not named in build.sources"


def test_corpora_from_the_command_line():
    entries = corpora_from_flags(
        [
            "markdown:docs",
            "markdown:more, and more,licence=MIT",
            "records:a.csv,fields=title:headline|text:body,files=*.csv|*.tsv",
        ]
    )
    assert entries == (
        {"name": "markdown", "reader": "markdown", "path": "docs"},
        {"name": "markdown_2", "reader": "markdown", "path": "more, and more", "licence": "MIT"},
        {
            "name": "records", "reader": "records", "path": "a.csv",
            "fields": "title:headline|text:body", "files": "*.csv|*.tsv",
        },
    )  # fmt: skip
    corpus = corpus_of(entries[2], options=READERS["records"].options)
    assert corpus.options["fields"] == {"title": "headline", "text": "body"}
    assert corpus.options["files"] == ("*.csv", "*.tsv")
    assert corpus.licence == "unknown"


def test_documents_of_other_licences_are_refused(recipe, tmp_path):
    (tmp_path / "a.csv").write_text("text,right\nOne.,MIT\nTwo.,GPL-3.0-only\nThree.,\n")
    entry = {
        "name": "mine", "reader": "records", "path": str(tmp_path), "licence_field": "right",
    }  # fmt: skip
    made = recipe(sources=("mine",), corpora=(entry,), allowed_licences=("MIT",))
    (unit,) = units_of("mine", made)
    found = list(documents_of("mine", unit, made))
    assert [getattr(item, "reason", "") for item in found] == ["", "licence", "licence"]
    assert [item.detail for item in found[1:]] == ["GPL-3.0-only", "unknown"]
