"""Tasks, readers and phrasings from a folder of the user's own."""

import gzip
import json
from pathlib import Path

import pytest

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.building import TokenizerRecipe, Work, build_dataset

TASKS = """
from dataclasses import dataclass

from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.tasks import Task


@dataclass
class Word:
    text: str


def last_word(document, context):
    word = Word(document.text.split()[-1].strip("."))
    yield Draft({"input": document.text}, target=word.text)


TASKS = {
    "last_word": Task("A line → its last word.", ("note",), last_word, "intrinsic", "allowed"),
    "backwards": Task(
        "A line → backwards.",
        ("note",),
        lambda document, context: iter([Draft({"input": document.text}, document.text[::-1])]),
        "intrinsic",
    ),
}
"""
READERS = """
from pathlib import Path

from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.sources import Reader


def units(corpus):
    yield (corpus.path,)


def documents(corpus, unit):
    for number, line in enumerate(Path(unit[0]).read_text().splitlines(), start=1):
        yield Document(
            corpus.name, unit[0], (number, number), line, corpus.licence, line, "note", {}
        )


READERS = {
    "notes": Reader(
        "Notes, one a line.", "note", {}, units, documents, lambda corpus: [],
        lambda corpus: iter([Path(corpus.path)]),
    )
}
"""
TEMPLATES = """
templates = [
  { id = "a", style = "imperative", text = "Do it." },
  { id = "b", style = "question", text = "Will you?" },
  { id = "c", style = "terse", text = "This:" },
]
"""
TOKENIZER = TokenizerRecipe(path="", vocabulary_size=0, sentinels=100, kind="bytes")


@pytest.fixture
def extension(tmp_path):
    folder = tmp_path / "mine"
    (folder / "templates").mkdir(parents=True)
    (folder / "tasks.py").write_text(TASKS)
    (folder / "readers.py").write_text(READERS)
    for task in ("last_word", "backwards"):
        (folder / "templates" / f"{task}.toml").write_text(TEMPLATES)
    names = [f"{a} {b} {c}" for a in ("red", "blue", "green") for b in ("old", "new")
             for c in ("cat", "dog", "bird", "fish", "horse")]  # fmt: skip
    (tmp_path / "notes.txt").write_text("".join(f"{name} number {name[:3]}.\n" for name in names))
    return folder


@pytest.fixture
def build(tmp_path, recipe, extension):
    """build(output, processes) → the recipe and what was said"""

    def run(output="out", *, processes=1, runner="local", **changes):
        settings = {
            "sources": ("notes",),
            "corpora": ({"name": "notes", "reader": "notes", "path": str(tmp_path / "notes.txt")},),
            "extensions": (str(extension),),
            "holdout_phrasings": 1,
        }
        return build_dataset(
            recipe=recipe(**(settings | changes)),
            tokenizer=TOKENIZER,
            work=Work(processes, runner),
            output=tmp_path / output,
            progress=lambda line: None,
        )

    return run


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.gz"))}


def test_own_tasks_and_readers_are_built_in_any_number_of_processes(tmp_path, build, extension):
    build("one")
    build("two", processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    info = json.loads((tmp_path / "one" / "dataset.json").read_text())
    assert info["tasks"].keys() == {"last_word", "backwards"}
    assert all(task["accepted"] for task in info["tasks"].values())
    with gzip.open(next((tmp_path / "one").glob("train-*")), "rt") as file:
        example = json.loads(file.readline())
    assert example["provenance"]["generator"] in ("tasks.mine.last_word", "tasks.mine.<lambda>")
    page = (tmp_path / "one" / "datasheet.html").read_text()
    assert "A line → its last word." in page
    assert "Notes, one a line." in page


def test_own_tasks_on_beam(tmp_path, build):
    pytest.importorskip("apache_beam")
    build("local")
    build("beam", runner="beam")
    assert contents(tmp_path / "local") == contents(tmp_path / "beam")


@pytest.mark.parametrize("name", ["tasks.py", "readers.py", "templates/backwards.toml"])
def test_a_changed_file_makes_another_dataset(build, extension, name):
    build()
    assert build().reused
    with open(extension / name, "a") as file:
        file.write("\n# changed\n")
    with pytest.raises(ConfigError, match="differs in the files of the extensions"):
        build()


def test_own_phrasings_join_those_of_a_task_of_the_package(recipe, extension):
    (extension / "templates" / "name_topic.toml").write_text(TEMPLATES)
    templates = recipe(extensions=(str(extension),)).templates_of("name_topic")
    assert {"name_topic.name", "name_topic.a", "name_topic.c"} <= {t.id for t in templates}
    (extension / "templates" / "name_topic.toml").write_text(TEMPLATES.replace('"a"', '"name"'))
    with pytest.raises(DataError, match="two templates are called 'name'"):
        recipe(extensions=(str(extension),)).templates_of("name_topic")


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("tasks.py", "x = 1\nx.y\n", r"tasks.py fails at line 2: AttributeError: 'int' object"),
        ("tasks.py", "def f(:", r"tasks.py fails: SyntaxError"),
        ("tasks.py", "import nowhere_at_all", r"tasks.py fails at line 1: ModuleNotFoundError"),
        ("tasks.py", "x = 1", "no dictionary called TASKS"),
        ("tasks.py", "TASKS = {'a': 1}", r"TASKS\['a'\]: a int is no Task"),
        ("tasks.py", TASKS.replace('"intrinsic"', '"guessed"'), "target_source is one of intri"),
        ("tasks.py", TASKS.replace('("note",)', '"note"'), "kinds takes a tuple"),
        (
            "tasks.py",
            TASKS.replace('"backwards"', '"name_topic"'),
            "called 'name_topic'; give it ano",
        ),
        (
            "tasks.py",
            TASKS.replace('"backwards"', '"upward"'),
            "backwards.toml: no task is called 'backwards'",
        ),
        ("readers.py", "READERS = {'notes': 3}", r"READERS\['notes'\] is no Reader"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(build, extension, name, text, error):
    (extension / name).write_text(text)
    with pytest.raises(ConfigError, match=error) as raised:
        build()
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("yield Draft({}, 1 / 0)", "line 14: ZeroDivisionError: division by zero"),
        ("yield 7", "fails: TypeError: a int is no Draft"),
        ("yield Draft({}, 'x')", 'a draft\'s fields need a text called "input"'),
        ("yield Draft({'input': 'x'}, 3)", "the target 3 is no text"),
    ],
)
def test_a_generator_that_fails_names_its_line_and_document(
    build, extension, tmp_path, line, error, processes
):
    start = TASKS.index("    word =")
    end = TASKS.index("\n\n\nTASKS")
    (extension / "tasks.py").write_text(TASKS[:start] + "    " + line + TASKS[end:])
    with pytest.raises(DataError, match=error) as raised:
        build(processes=processes)
    assert f"the task 'last_word' of {tmp_path}/notes.txt, lines (" in str(raised.value)


def test_a_folder_that_is_not_there(build, tmp_path):
    with pytest.raises(ConfigError, match="no folder with tasks.py, readers.py or templates"):
        build(extensions=(str(tmp_path / "nowhere"),))
