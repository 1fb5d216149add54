"""The build binary, end to end, on a small part of the real corpora."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.data.tokenizer import load_tokenizer
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions import building
from instructrec_jax.instructions.audit import LeakAudit
from instructrec_jax.instructions.building import build_from_config
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.templates import load_templates

REPOSITORY = Path(__file__).parent.parent
SMALL = {
    "build.tasks": "find_bug,list_parameters,predict_output,name_topic,complete_passage,"
    "fill_blanks,list_keywords,summarise_package,translate_names,translate_dates,translate_measures,"
    "identify_language",
    "build.max_documents_per_source": "150",
    "build.max_examples_per_task": "60",
    "build.max_test_examples": "15",
    "build.languages": "de,zh",
    "build.test_fraction": "0.15",
    "build.processes": "1",
    "tokenizer.vocabulary_size": "900",
    "tokenizer.sentinels": "10",
}


def small_config(**changes):
    overrides = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(str(REPOSITORY / "configs/base.py"), overrides)[0]


def built(output, **changes):
    lines = []
    summary = build_from_config(small_config(**changes), output, lines.append)
    return summary, lines


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("build") / "small"
    summary, lines = built(output)
    return output, summary, lines


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(output, *arguments, **environment):
    overrides = [f"--config.{key}={value}" for key, value in SMALL.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "instructrec_jax.build", "--config=configs/base.py",
         f"--output={output}", *overrides, *arguments],
        cwd=REPOSITORY, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_folder_holds_what_the_format_says(dataset):
    output, summary, _ = dataset
    info = json.loads((output / "dataset.json").read_text())
    names = {path.name for path in output.iterdir()}
    assert {"dataset.json", "datasheet.html", "rejected.jsonl.gz", "tokenizer"} <= names
    assert names >= set(info["files"])
    assert info["format_version"] == 1 and info["recipe"]["seed"] == 0
    for split in ("train", "validation", "test"):
        examples = list(read_examples(output, split=split))
        assert len(examples) == info["examples"][split] == summary.examples[split] > 0
        assert all(example.split == split for example in examples)
        assert all(example.provenance and example.template for example in examples)
    assert not summary.reused
    assert load_tokenizer(output / "tokenizer").sha256 == info["tokenizer"]["sha256"]


def test_counts_agree_with_the_files(dataset):
    output, _, _ = dataset
    info = json.loads((output / "dataset.json").read_text())
    counted = Counter((e.task, e.split, e.holdout) for e in read_examples(output))
    told = {
        (task, split, holdout): count
        for task, record in info["tasks"].items()
        for split, holdouts in record["examples"].items()
        for holdout, count in holdouts.items()
    }
    assert counted == told
    funnel = info["funnel"]
    assert funnel["drafts"] == funnel["accepted"] + funnel["rejected"]
    assert funnel["rejected"] == sum(info["rejected_by_reason"].values())
    for record in info["tasks"].values():
        assert record["drafts"] == record["accepted"] + sum(record["rejected"].values())
    with gzip.open(output / "rejected.jsonl.gz", "rt", encoding="utf-8") as file:
        rejected = [json.loads(line) for line in file]
    for task, record in info["tasks"].items():
        written = Counter(row["reason"] for row in rejected if row["record"]["task"] == task)
        assert written == {reason: min(n, 20) for reason, n in record["rejected"].items()}
    assert sum(source["documents"] for source in info["sources"].values()) == info["documents"]


def test_the_hold_outs_hold(dataset):
    output, _, _ = dataset
    info = json.loads((output / "dataset.json").read_text())
    assert not any(info["leak_audit"].values())
    groups = {}
    for example in read_examples(output):
        held_out = info["tasks"][example.task]["held_out_templates"]
        assert (example.template in held_out) == (example.holdout == "phrasing")
        assert (example.task == "fill_blanks") == (example.holdout == "task")
        assert (example.split == "test") == bool(example.holdout)
        if example.provenance.corpus == "python_code":
            groups.setdefault(example.provenance.uri.split("#")[0], set()).add(example.split)
    # Whole files of code, not only functions.
    assert groups and all(len(splits) == 1 for splits in groups.values())


def test_other_processes_and_hash_seeds_give_the_same_bytes(dataset, tmp_path):
    output, _, _ = dataset
    again = command(
        tmp_path / "other_name", "--config.build.processes=2", PYTHONHASHSEED="77", TZ="Asia/Tokyo"
    )
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert contents(tmp_path / "other_name") == contents(output)
    assert "examples" in said and "datasheet" in said


def test_another_seed_splits_and_phrases_otherwise(tmp_path):
    def rows(seed):
        output = tmp_path / seed
        built(output, seed=seed, build__sources="python_topics", build__tasks="name_topic")
        return {e.id.rpartition("-")[0]: (e.split, e.template) for e in read_examples(output)}

    first, second = rows("1"), rows("2")
    shared = first.keys() & second.keys()
    assert len(shared) > 30
    assert sum(first[key] == second[key] for key in shared) < len(shared) / 2


def test_the_same_recipe_is_reused_and_another_one_refused(dataset):
    output, _, _ = dataset
    before = contents(output)
    summary, lines = built(output)
    assert summary.reused and "built by the same recipe" in lines[0]
    # The number of processes is not part of the recipe.
    assert built(output, build__processes="2")[0].reused
    with pytest.raises(ConfigError, match=r"another recipe \(differs in seed, languages\)"):
        built(output, seed="3", build__languages="fr")
    assert contents(output) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ingredients": {"generators": "0"}}, "the generators"),
        ({"ingredients": {"templates": {"find_bug": "0"}}}, "templates of find_bug"),
        ({"ingredients": {"installed packages": "0"}}, "the installed packages"),
        ({"ingredients": {"tokenizer": "0"}}, "the tokenizer"),
        ({"versions": {"babel": "0"}}, "version of babel"),
    ],
)
def test_a_dataset_of_other_ingredients_is_refused(dataset, tmp_path, change, told):
    info = json.loads((dataset[0] / "dataset.json").read_text())
    info["recipe_sha256"] = "0"
    for section, changes in change.items():
        for key, value in changes.items():
            known = info[section][key]
            info[section][key] = {**known, **value} if isinstance(value, dict) else value
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=rf"\(differs in {told}\)"):
        built(tmp_path)


def test_what_is_no_dataset_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="is no finished dataset"):
        built(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        built(tmp_path / "file" / "dataset")


def test_a_killed_build_never_looks_finished(tmp_path):
    output = tmp_path / "small"
    process = command(output)
    partial = tmp_path / "small.partial"
    deadline = time.monotonic() + 60
    while not any(partial.glob("local-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # What waits there is not masked.
    (waiting,) = partial.glob("local-*")
    assert waiting.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="another build is writing"):
        built(output)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists() and partial.exists()
    (partial / "leftover").mkdir()
    (partial / "leftover" / "file").write_text("x")
    built(output, build__sources="python_topics", build__tasks="name_topic")
    assert output.exists() and not partial.exists() and not (output / "leftover").exists()


def test_all_mistakes_of_a_recipe_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        built(tmp_path / "x", build__sources="python_cod", build__languages="zz")
    assert "did you mean 'python_code'" in str(error.value) and "'zz'" in str(error.value)
    assert not (tmp_path / "x.partial").exists()
    with pytest.raises(ConfigError) as error:
        built(
            tmp_path / "x", build__processes="-1", build__test_fraction="nan",
            tokenizer__vocabulary_size="40",
        )  # fmt: skip
    for told in ("build.processes: -1", "build.test_fraction: nan", "vocabulary_size: 40 is below"):
        assert told in str(error.value)
    with pytest.raises(ConfigError, match=r"tokenizer\.path: no tokenizer at .*gone"):
        built(tmp_path / "x", tokenizer__path=str(tmp_path / "gone"))
    assert not list(tmp_path.iterdir())


def test_nothing_left_to_train_on(tmp_path):
    told = r"train on: .* ([\d,]+) drafts made, \1 refused \(\1 long_target\)\. Widen"
    with pytest.raises(DataError, match=told):
        built(
            tmp_path / "x", build__sources="python_topics", build__tasks="name_topic",
            build__max_target_characters="1",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_leak_is_a_bug_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "audit", lambda *a, **k: LeakAudit(1, 0, 0, 0))
    with pytest.raises(AssertionError, match="leaked"):
        built(tmp_path / "x", build__sources="python_topics", build__tasks="name_topic")
    assert not (tmp_path / "x").exists()


def test_an_existing_tokenizer_comes_along(dataset, tmp_path):
    output, _, _ = dataset
    path = str(output / "tokenizer")
    built(
        tmp_path / "x", build__sources="python_topics", build__tasks="name_topic",
        tokenizer__path=path,
    )  # fmt: skip
    assert contents(tmp_path / "x" / "tokenizer") == contents(output / "tokenizer")


def test_the_command_fails_with_one_line(tmp_path):
    process = command(tmp_path / "x", "--config.build.source=python_code")
    _, said = process.communicate()
    assert process.returncode == 2
    assert "unknown key 'build.source'" in said and "Traceback" not in said


def test_progress_tells_the_measured_stages(dataset):
    _, _, lines = dataset
    text = "\n".join(lines)
    for source in ("python_code", "python_topics", "locale_names", "package_metadata"):
        assert re.search(rf"^{source}: [\d,]+ documents, [\d,]+ drafts, [\d.]+ s$", text, re.M)
    assert re.search(r"translate_names +\d+ examples   refused: ", text)
    assert "no leak found" in text and "characters a token" in text


class Page(HTMLParser):
    """Collects the page's text, the addresses it names and its embedded JSON."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.data, self.inside = [], [], "", ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.inside = values.get("id", "") if tag == "script" else tag
        self.addresses += [values[key] for key in ("src", "href") if key in values]

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "sample-data":
            self.data += data
        elif self.inside not in ("script", "style", ""):
            self.text.append(data)


def test_the_datasheet_stands_alone_and_tells_the_truth(dataset):
    output, summary, _ = dataset
    page = Page()
    source = (output / "datasheet.html").read_text(encoding="utf-8")
    page.feed(source)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?://[^\s\"<]*\.(js|css|woff)", source)
    text = " ".join(page.text)
    assert f"{sum(summary.examples.values()):,} examples" in text
    assert "Unicode CLDR" in text and "held out" in text
    samples = json.loads(page.data)
    examples = {(e.task, e.instruction, e.target) for e in read_examples(output)}
    assert len(samples) > 100
    for sample in samples:
        assert (sample["task"], sample["instruction"], sample["target"]) in examples
    for template in load_templates("translate_dates"):
        assert template.text.split("{{")[0].split('"')[0] in source


def test_text_cannot_break_out_of_the_page(dataset):
    output, _, _ = dataset
    source = (output / "datasheet.html").read_text(encoding="utf-8")
    assert source.count("<script") == source.count("</script>") == 3


def test_the_build_needs_neither_tensorflow_nor_jax():
    program = "import sys, instructrec_jax.build; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tensorflow", "jax", "flax", "optax", "orbax"} & set(loaded)
