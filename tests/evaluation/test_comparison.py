"""Comparisons of planted evaluations: what is better must be called so, and nothing else."""

import json
import re

import pytest

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.evaluation.comparison import compare_evaluations
from instructrec_jax.evaluation.files import json_lines
from instructrec_jax.evaluation.floors import most_frequent_targets
from instructrec_jax.evaluation.protocol import Answer, evaluate_answers
from instructrec_jax.evaluation.sensitivity import measure_sensitivity
from instructrec_jax.instructions.example import InstructionExample

TASKS = ("alike", "better", "worse", *(f"noise {n}" for n in range(5)))
EXAMPLES = [
    InstructionExample(
        id=f"{task}/{n}", task=task, instruction="Say it <b>.", input=f"{n}",
        target=f"the number {n}", holdout="document",
    )
    for task in TASKS
    for n in range(40)
]  # fmt: skip


def write(folder, right, examples=EXAMPLES, **changes):
    outputs = [each.target if right(each, n) else "?" for n, each in enumerate(examples)]
    evaluation = evaluate_answers(
        examples=examples,
        answers=[Answer(output, -1.0, "eos", -2.0, 3) for output in outputs],
        frequent=most_frequent_targets(examples, ()),
        primary="exact_match",
    )
    folder.mkdir(parents=True)
    metrics = {
        "checkpoint": {"description": f"run {folder.name} </script>"},
        "dataset": {"path": "data"},
        **evaluation.figures,
        **changes,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (folder / "predictions.jsonl").write_text(json_lines(evaluation.predictions), "utf-8")
    return folder


def old(example, n):
    return n % 2 == 0 if example.task != "worse" else n % 4 != 0


def new(example, n):
    if example.task == "better":
        return n % 8 != 1
    if example.task == "worse":
        return n % 4 == 0
    # Right as often, on others.
    return n % 2 == 0 if example.task == "alike" else n % 4 < 2


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    runs = [
        write(folder / "a" / "evaluation", old),
        write(folder / "b" / "evaluation", new),
        write(folder / "c" / "evaluation", old, EXAMPLES[: 8 * 30]),
    ]
    return compare_evaluations(runs, folder / "out"), folder


def test_verdicts_and_figures(compared):
    comparison, _ = compared
    assert [run["name"] for run in comparison["runs"]] == ["a", "b", "c"]
    assert comparison["examples_in_common"] == 240
    first, second = comparison["pairs"]
    rows = {row["task"]: row for row in first["tasks"]}
    better = rows["better"]
    assert (better["first"], better["second"]) == (0.5, 0.875)
    assert better["difference"]["value"] == 0.375
    assert 0 < better["difference"]["low"] < 0.375 < better["difference"]["high"]
    assert (better["wins"], better["losses"]) == (15, 0)
    assert better["p_sign_test"] == pytest.approx(2 / 2**15)
    assert better["verdict"] == "better"
    assert rows["worse"]["verdict"] == "worse"
    assert rows["alike"]["p_value"] == rows["alike"]["p_sign_test"] == 1.0
    for task, row in rows.items():
        assert row["p_corrected"] >= row["p_value"]
        if task not in ("better", "worse"):
            assert row["verdict"] == "no difference shown"
    assert first["macro"]["document"]["tasks"] == len(rows)
    # The same answers under another name.
    assert {row["verdict"] for row in second["tasks"]} == {"no difference shown"}
    assert all(row["difference"]["value"] == 0 for row in second["tasks"])


def test_the_page(compared):
    comparison, folder = compared
    page = (folder / "out" / "comparison.html").read_text("utf-8")
    assert json.loads((folder / "out" / "comparison.json").read_text("utf-8")) == comparison
    assert "240 examples in common" in page
    assert "corrected for 6 tasks" in page
    assert "Answers that gained most" in page
    assert "<script" not in page and "Say it &lt;b&gt;." in page
    assert not re.search(r"url\(|@import|https?://", page)


def with_sensitivity(folder, sensitive, examples=EXAMPLES[40:80]):
    """Everything right under the true instruction; changed, wrong where `sensitive` says so."""
    measured = measure_sensitivity(
        examples,
        [each.target for each in examples],
        lambda asked, _: [
            "?" if sensitive(n) else each.target for n, each in enumerate(asked)
        ],
        primary="exact_match",
    )  # fmt: skip
    write(folder, lambda *_: True, examples, sensitivity=measured.figures)
    (folder / "sensitivity.jsonl").write_text(json_lines(measured.records), "utf-8")
    return folder


def test_drops_under_changed_instructions_stand_side_by_side(tmp_path):
    runs = [
        with_sensitivity(tmp_path / "copies", lambda n: False),
        with_sensitivity(tmp_path / "reads", lambda n: n % 4 != 0),
        write(tmp_path / "unasked", lambda *_: True, EXAMPLES[40:80]),
    ]
    held = compare_evaluations(runs, tmp_path / "out")["sensitivity"]
    assert [(run["name"], run["verdict"]) for run in held["runs"]] == [
        ("copies", "ignores its instruction"),
        ("reads", "follows"),
    ]
    (pair,) = held["pairs"]
    row = pair["variants"]["removed"]
    assert (row["examples"], row["first"], row["second"]) == (40, 0.0, 0.75)
    assert row["difference"]["value"] == 0.75
    # By the binomial distribution: 0.75 +- 1.96 * sqrt(0.75 * 0.25 / 40).
    assert row["difference"]["low"] == pytest.approx(0.616, abs=0.04)
    page = (tmp_path / "out" / "comparison.html").read_text("utf-8")
    assert "Do they read their instructions?" in page and "reads less copies" in page
    assert "of 1 task it follows in 1, ignores in 0, undecided in 0" in page
    # An evaluation of an earlier version counted one of them.
    metrics = json.loads((runs[0] / "metrics.json").read_text("utf-8"))
    del metrics["sensitivity"]["tasks_following"], metrics["sensitivity"]["tasks_undecided"]
    (runs[0] / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    held = compare_evaluations(runs, tmp_path / "out")["sensitivity"]
    assert [run["tasks_following"] for run in held["runs"]] == [None, 1]
    assert compare_evaluations(runs[2:] * 2, tmp_path / "out")["sensitivity"] is None
    # One that was asked behind demonstrations, as by an earlier version, is no pair of the other.
    metrics |= {"format_version": 2, "decoding": {"shots": 1}}
    (runs[0] / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    held = compare_evaluations(runs, tmp_path / "out")["sensitivity"]
    assert (held["pairs"], held["asked_otherwise"]) == ([], ["reads"])
    assert "Not paired with copies: reads." in (tmp_path / "out/comparison.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("metrics.json", "macro"),
        ("metrics.json", "dataset"),
        ("sensitivity.jsonl", "true_output"),
        ("sensitivity.jsonl", "variant"),
        ("predictions.jsonl", "chrf"),
    ],
)
def test_what_evaluate_did_not_write_is_told(tmp_path, file, field):
    whole = with_sensitivity(tmp_path / "whole", lambda n: False)
    part = with_sensitivity(tmp_path / "part", lambda n: False)
    text = (part / file).read_text("utf-8")
    # The sensitivity comes last in metrics.json.
    head, found, tail = text.rpartition(f'"{field}"')
    assert found
    (part / file).write_text(f'{head}"another"{tail}', "utf-8")
    with pytest.raises(DataError, match=f"part: its files are not those of evaluate.*{field}"):
        compare_evaluations([whole, part], tmp_path / "out")


def test_few_examples_are_marked(tmp_path):
    few = EXAMPLES[40:50]
    runs = [
        write(tmp_path / "x", lambda *_: False, few),
        write(tmp_path / "y", lambda *_: True, few),
    ]
    (pair,) = compare_evaluations(runs, tmp_path / "out")["pairs"]
    assert [row["verdict"] for row in pair["tasks"]] == ["better (few)"]


def test_prompts_of_one_question_are_one(tmp_path):
    prompts = [
        InstructionExample(
            id=f"q{n // 10}/p{n % 10}", template=f"p{n % 10}", task="t", instruction=f"{n % 10}",
            input=f"{n // 10}", target="yes",
        )
        for n in range(60)
    ]  # fmt: skip
    runs = [
        write(tmp_path / "x", lambda each, n: n // 10 == 0, prompts),
        write(tmp_path / "y", lambda each, n: 0 < n // 10 < 5, prompts),
    ]
    (pair,) = compare_evaluations(runs, tmp_path / "out")["pairs"]
    (row,) = pair["tasks"]
    assert (row["examples"], row["clusters"], row["wins"], row["losses"]) == (60, 6, 4, 1)
    # As of five coins that fell four to one, not of fifty.
    assert row["p_sign_test"] == pytest.approx(12 / 32)
    assert row["p_value"] == pytest.approx(12 / 32, abs=0.02)
    assert row["verdict"] == "no difference shown"
    metrics = json.loads((tmp_path / "y" / "metrics.json").read_text("utf-8"))
    group = metrics["tasks"]["t"]["all"]
    assert (group["examples"], group["clusters"]) == (60, 6)


def test_what_cannot_be_compared(tmp_path):
    whole = write(tmp_path / "whole", old)
    part = write(tmp_path / "part", old, EXAMPLES[:100])
    changed = [
        InstructionExample(**{**vars(each), "target": "another"}) for each in EXAMPLES
    ]  # fmt: skip
    other = write(tmp_path / "other", old, changed)
    reworded = [
        InstructionExample(**{**vars(each), "instruction": "Tell it."}) for each in EXAMPLES[:60]
    ]  # fmt: skip
    phrased = write(tmp_path / "phrased", old, reworded)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="only 100 of up to 320 examples"):
        compare_evaluations([whole, part], out)
    with pytest.raises(DataError, match="alike/0 has another target in"):
        compare_evaluations([whole, other], out)
    with pytest.raises(DataError, match="alike/0 has another instruction in .*phrasings"):
        compare_evaluations([part, phrased], out)
    with pytest.raises(DataError, match="nowhere"):
        compare_evaluations([whole, tmp_path / "nowhere"], out)
    with pytest.raises(ConfigError, match="two or more"):
        compare_evaluations([whole], out)
    metrics = (whole / "metrics.json").read_text("utf-8")
    (whole / "metrics.json").write_text(metrics.replace('"checkpoint"', '"other"'), "utf-8")
    with pytest.raises(DataError, match="whole: its files are not those of evaluate.*checkpoint"):
        compare_evaluations([whole, part], out)
    (whole / "metrics.json").write_text(metrics, "utf-8")
    (part / "predictions.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match="part: its files are not those of evaluate"):
        compare_evaluations([whole, part], out)
    assert not out.exists()
