"""A build whose train questions a model looks through at its end."""

import gzip
import json
from collections import Counter
from dataclasses import replace

import pytest

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions import building, curated_train, hashing
from instructrec_jax.instructions.building import TokenizerRecipe, Work, build_dataset
from instructrec_jax.instructions.filters import FilterSettings
from instructrec_jax.instructions.synthesis.likelihood import Judge, Likelihood

CHANGES = {
    "sources": ("python_topics", "locale_names"),
    "languages": ("de",),
    "tasks": ("name_topic", "translate_dates"),
    "max_documents_per_source": 60,
    "max_examples_per_task": 40,
    "phrasings_per_example": 2,
    "demonstrations": 0.5,
}


def judge(spoilt=(), asked=None, most=10**9):
    """Answers are likelier with a question, but for a share of them by hash; some are far out."""

    def score(requests):
        found = []
        for text, target in requests:
            if asked is not None:
                asked.append(text)
                if len(asked) > most:
                    raise KeyboardInterrupt
            place = hashing.fraction(text)
            unlearnable = hashing.fraction(target) < 0.1 or any(word in target for word in spoilt)
            each = -1.0 - 0.1 * place if text else -2.0
            each -= 2.0 * (unlearnable and bool(text))
            far = 0.1 <= hashing.fraction(target) < 0.15
            found.append(Likelihood(4 * (each - 0.9 * far * bool(text)), 4))
        return found

    return Judge("a judge", "f1", score, write=lambda texts: [])


@pytest.fixture
def build(recipe, tmp_path, monkeypatch):
    def run(name, by=None, **changes):
        monkeypatch.setattr(building, "load_judge", lambda checkpoint: by)
        curation = {"curation_checkpoint": "runs/judge"} if by else {}
        build_dataset(
            recipe=recipe(**(CHANGES | curation | changes)),
            tokenizer=TokenizerRecipe("", 300, 0, "bytes"),
            work=Work(processes=1),
            output=tmp_path / name,
            progress=lambda line: None,
        )
        return tmp_path / name

    return run


def lines(folder, split):
    return [
        line
        for file in sorted(folder.glob(f"{split}-*.gz"))
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]


def info(folder):
    return json.loads((folder / "dataset.json").read_text())


def test_refused_questions_leave_train_with_all_their_phrasings_and_are_counted(build):
    plain, curated = build("plain"), build("curated", judge())
    before, after = lines(plain, "train"), lines(curated, "train")
    left = [json.loads(line) for line in after]
    gone = [json.loads(line) for line in before if line not in set(after)]
    assert set(after) < set(before) and len(before) == len(after) + len(gone)
    drafts = [{each["id"].rpartition("-")[0] for each in part} for part in (left, gone)]
    assert not drafts[0] & drafts[1] and len(gone) == 2 * len(drafts[1])
    for split in ("validation", "test"):
        assert lines(plain, split) == lines(curated, split)
    told, old = info(curated), info(plain)
    reasons = {"ifd_high", "nll_outlier"}
    refused = Counter(
        {reason: count for reason, count in told["rejected_by_reason"].items() if reason in reasons}
    )
    assert refused.keys() == reasons and refused.total() == len(drafts[1])
    assert told["funnel"]["drafts"] == old["funnel"]["drafts"]
    assert told["funnel"]["accepted"] == old["funnel"]["accepted"] - len(drafts[1])
    assert told["examples"]["train"] == len(left)
    assert sum(entry["examples"] for name, entry in told["files"].items() if "train" in name) == (
        len(left)
    )
    every = [
        json.loads(line)
        for split in ("train", "validation", "test")
        for line in lines(curated, split)
    ]
    for task, entry in told["tasks"].items():
        targets = [len(each["target"]) for each in every if each["task"] == task]
        assert entry["lengths"]["target"]["max"] == max(targets)
        assert entry["lengths"]["target"]["mean"] == round(sum(targets) / len(targets), 1)
    directions = {row["name"]: row for row in told["languages"]}["German"]
    translated = {each["id"].rpartition("-")[0] for each in every if "translate" in each["task"]}
    assert directions["from_english"] + directions["to_english"] == len(translated)
    used = sum(source["documents_used"] for source in told["sources"].values())
    keys = {json.dumps(each["provenance"] | {"generator": ""}) for each in every}
    assert used == len(keys)
    page = (curated / "datasheet.html").read_text()
    assert not any(each["id"] in page for each in gone) and "nll outlier" in page.replace("_", " ")
    rejected = [
        json.loads(line)
        for line in gzip.decompress((curated / "rejected.jsonl.gz").read_bytes()).splitlines()
    ]
    shown = [each["record"] for each in rejected if each["reason"] in reasons]
    assert shown and {each["id"].rpartition("-")[0] for each in shown} <= drafts[1]
    assert all(each["ifd"] > 0 and each["instruction"] for each in shown)


@pytest.mark.parametrize("rejects_written", [20, 0])
def test_a_killed_curation_goes_on_where_it_was(build, tmp_path, monkeypatch, rejects_written):
    monkeypatch.setattr(curated_train, "_PORTION", 5)
    filters = {"filters": FilterSettings(rejects_written=rejects_written)}
    whole_asked, first, second = [], [], []
    whole = build("whole", judge(asked=whole_asked), **filters)
    with pytest.raises(KeyboardInterrupt):
        build("killed", judge(asked=first, most=len(whole_asked) // 2), **filters)
    (measures,) = tmp_path.glob("killed.partial/*/curation-*.jsonl")
    measures.write_bytes(measures.read_bytes() + b'["half a li')
    killed = build("killed", judge(asked=second), **filters)
    for path in whole.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (killed / path.relative_to(whole)).read_bytes()
    assert 0.4 * len(whole_asked) < len(second) < 0.8 * len(whole_asked)
    count = sum(info(whole)["rejected_by_reason"].values())
    rejected = info(whole)["files"]["rejected.jsonl.gz"]["examples"]
    assert rejected == count if not rejects_written else rejected < count


def test_filters_are_switched_off_one_by_one(build, recipe):
    for without, left in (("ifd", "nll_outlier"), ("nll_outlier", "ifd_high")):
        told = info(build(without, judge(), filters=FilterSettings(without=(without,))))
        found = {"ifd_high", "nll_outlier"} & told["rejected_by_reason"].keys()
        assert found <= {left} and (left != "ifd_high" or found)
    both = recipe(curation_checkpoint="x", filters=FilterSettings(without=("ifd", "nll_outlier")))
    assert "build.curation_checkpoint: both of its filters are switched off" in both.problems()


def test_another_model_makes_another_dataset(build):
    folder = build("made", judge())
    assert build("made", judge()) == folder
    with pytest.raises(ConfigError, match="differs in the curating model"):
        build("made", replace(judge(), fingerprint="f2"))


def test_nothing_left(build):
    with pytest.raises(DataError, match="the curation by a judge leaves no example to train on"):
        build("none", judge(spoilt=("",)))
