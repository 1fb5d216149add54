"""The build binary on corpora of one's own, end to end."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.building import build_from_config
from instructrec_jax.instructions.sources.corpus import corpora_from_flags

REPOSITORY = Path(__file__).parent.parent
WORDS = (
    "river", "forest", "winter", "harbour", "engine",
    "letter", "window", "garden", "silver", "market",
)  # fmt: skip
OVERRIDES = {
    "build.test_fraction": "0.3",
    "build.validation_fraction": "0.1",
    "build.max_examples_per_task": "40",
    "build.holdout_tasks": "fill_blanks",
    "build.tasks": "complete_passage,fill_blanks,order_sentences,name_topic,write_body,"
    "list_parameters,translate_messages,translate_sentences",
    "tokenizer.kind": "bytes",
}


def passage(number):
    one, two = WORDS[number % 10], WORDS[(number * 7 + 3) % 10]
    return " ".join(
        f"Sentence {number} says that the {one} is near the {two} in place {number * 31 + k}."
        for k in range(5)
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder with every kind of raw data."""
    folder = tmp_path_factory.mktemp("raw")
    for number in range(30):
        encoding = ("utf-8", "utf-16", "latin-1")[number % 3]
        text = f"Title {number}é\n\n{passage(number)} Déjà vu, café, été, naïve élève à Noël.\n"
        (folder / f"{number}.txt").write_bytes(text.encode(encoding))
        code = f"def f_{number}(a, b_{number}):\n    '''Add {number}.'''\n    return a + {number}\n"
        (folder / f"m{number}.py").write_text(code)
    (folder / "noise.txt").write_bytes(bytes(range(256)))
    rows = [f'Head {n},"{passage(n + 100)}",MIT\n' for n in range(20)]
    rows[7] = 'broken,"row\n'
    rows[9] = rows[9].replace("MIT", "GPL-3.0-only")
    (folder / "news.csv").write_text("head,body,right\n" + "".join(rows))
    messages = [f'msgid "Open {w} {v}"\nmsgstr "{v} {w} öffnen"\n' for w in WORDS for v in WORDS]
    (folder / "de.po").write_text("\n".join(messages))
    (folder / "talk.en").write_text("".join(f"Talk of {w} {n}.\n" for n, w in enumerate(WORDS)))
    (folder / "talk.fr").write_text("".join(f"On dit {w} {n}.\n" for n, w in enumerate(WORDS)))
    return folder


def config_of(folder, **changes):
    overrides = OVERRIDES | {key.replace("__", "."): value for key, value in changes.items()}
    config, _ = load_config(str(REPOSITORY / "configs/base.py"), overrides)
    corpora = corpora_from_flags(
        [
            f"text:{folder},licence=CC-BY-4.0",
            f"python:{folder},licence=MIT",
            f"records:{folder}/news.csv,fields=title:head|text:body,licence_field=right",
            f"gettext:{folder},licence=MIT",
            f"parallel:{folder}/talk.{{language}},licence=MIT",
        ]
    )
    config.build.corpora = corpora
    config.build.sources = tuple(entry["name"] for entry in corpora)
    return config


@pytest.fixture(scope="module")
def dataset(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("build") / "mine"
    build_from_config(
        config_of(raw, build__allowed_licences="MIT,CC-BY-4.0", build__processes="1"),
        output,
        lambda line: None,
    )
    return output


def examples_of(folder):
    for path in sorted(folder.glob("*-*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


def test_every_corpus_gives_examples_that_lead_back_to_its_bytes(raw, dataset):
    examples = list(examples_of(dataset))
    assert {e["provenance"]["corpus"] for e in examples} == {
        "text", "python", "records", "gettext", "parallel",
    }  # fmt: skip
    for example in examples:
        source = example["provenance"]
        first, last = source["span"]
        if source["corpus"] == "parallel":
            lines = [
                (raw / f"talk.{code}").read_text().split("\n")[first - 1] for code in ("en", "fr")
            ]
        else:
            data = (raw / source["uri"].partition("#")[0]).read_bytes()
            number = int(Path(source["uri"]).stem) % 3 if source["corpus"] == "text" else 0
            lines = data.decode(("utf-8", "utf-16", "latin-1")[number]).split("\n")[
                first - 1 : last
            ]
        assert hashing.sha256("\n".join(lines)) == source["sha256"]


def test_what_was_not_read_is_counted(dataset):
    info = json.loads((dataset / "dataset.json").read_text())
    left = {name: Counter(record["unreadable"]) for name, record in info["sources"].items()}
    assert left["text"] == {"binary": 1, "other_file_type": 34}
    assert left["records"] == {"broken_row": 1, "licence": 1}
    assert info["sources"]["records"]["documents"] == 18
    assert info["sources"]["records"]["licences"] == {"MIT": 18}
    told = {corpus["name"]: corpus for corpus in info["recipe"]["corpora"]}
    assert told["text"]["licence"] == "CC-BY-4.0"
    page = (dataset / "datasheet.html").read_text(encoding="utf-8")
    assert "Passages of plain text files." in page


def test_another_folder_and_other_processes_give_the_same_bytes(raw, dataset, tmp_path):
    shutil.copytree(raw, tmp_path / "moved")
    config = config_of(
        tmp_path / "moved", build__allowed_licences="MIT,CC-BY-4.0", build__processes="2"
    )
    build_from_config(config, tmp_path / "again", lambda line: None)
    names = sorted(path.name for path in dataset.glob("*.gz"))
    assert names == sorted(path.name for path in (tmp_path / "again").glob("*.gz"))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (dataset / name).read_bytes(), name


def test_a_changed_file_makes_another_dataset(raw, dataset, tmp_path):
    moved = dataset.with_name("changed")
    shutil.copytree(dataset, moved)
    config = config_of(raw, build__allowed_licences="MIT,CC-BY-4.0")
    assert build_from_config(config, moved, lambda line: None).reused
    before = (raw / "0.txt").read_bytes()
    (raw / "0.txt").write_bytes(before.replace(b"Title", b"Tilte"))
    with pytest.raises(ConfigError, match="differs in the files of the corpora"):
        build_from_config(config, moved, lambda line: None)
    (raw / "0.txt").write_bytes(before)
