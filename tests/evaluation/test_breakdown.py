"""Calibration, lengths, kinds of error and prompts, counted by hand."""

import pytest

from instructrec_jax.evaluation.breakdown import (
    calibration,
    choice_accuracy,
    error_kind,
    errors_by_task,
    length_effects,
    prompt_spread,
)


def record(output="x", target="x", **fields):
    return {
        "id": "1",
        "task": "t",
        "template": "",
        "instruction": "Do it.",
        "input": "some words",
        "target": target,
        "references": [],
        "options": [],
        "output": output,
        "passed": None,
        "stop_reason": "eos",
        "target_tokens": 3,
        "confidence": 0.5,
        "exact_match": float(output == target),
        "chrf": float(output == target),
        **fields,
    }


def test_calibration_by_hand():
    records = [
        record(confidence=0.92),
        record(confidence=0.98, target="y"),
        record(confidence=1.0),
        record(confidence=0.05, target="y"),
        record(confidence=None),
    ]
    found = calibration(records)
    assert found["examples"] == 4
    first, last = found["bins"][0], found["bins"][-1]
    assert (first["examples"], first["confidence"], first["correct"]) == (1, 0.05, 0.0)
    assert (last["low"], last["high"], last["examples"]) == (0.9, 1.0, 3)
    assert last["correct"] == pytest.approx(2 / 3)
    # (3 * |2.9 / 3 - 2 / 3| + 1 * |0.05 - 0|) / 4
    assert found["ece"] == pytest.approx((0.9 + 0.05) / 4)
    assert found["bins"][4] == {"low": 0.4, "high": 0.5, "examples": 0}
    assert calibration([])["ece"] is None


def test_lengths_that_are_equal_stay_together():
    records = [record(target_tokens=n, chrf=float(n < 5)) for n in [1] * 6 + list(range(2, 14))]
    groups = length_effects(records, metric="chrf")["target_tokens"]
    assert sum(group["examples"] for group in groups) == len(records)
    assert groups[0]["low"] == groups[0]["high"] == 1
    assert groups[0]["mean"] == 1.0
    assert groups[-1]["mean"] == 0.0
    assert groups[-1]["high"] == 13
    for group in groups:
        assert group["interval"][0] <= group["mean"] <= group["interval"][1]
    whole = length_effects(records, metric="chrf")["question_characters"]
    assert [group["examples"] for group in whole] == [18]
    assert length_effects([], metric="chrf")["target_tokens"] == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("right", {}),
        ("right", {"output": "other code", "passed": True}),
        ("empty", {"output": " "}),
        ("repeats", {"output": "a b " * 20}),
        ("endless", {"output": "y", "stop_reason": "length"}),
        ("no_option", {"output": "y", "options": ["x", "z"]}),
        ("other_option", {"output": "z", "options": ["x", "z"]}),
        ("fails", {"output": "y", "passed": False}),
        ("fails", {"passed": False}),
        ("copies", {"output": "some words"}),
        ("near", {"output": "y", "chrf": 0.9}),
        ("partly", {"output": "y", "chrf": 0.5}),
        ("far", {"output": "y"}),
    ],
)
def test_kinds_of_error(kind, fields):
    assert error_kind(record(**fields)) == kind


def test_errors_by_task():
    records = [record(task="b"), record(task="a", output=""), record(task="b", output="y")]
    assert errors_by_task(records) == {"a": {"empty": 1}, "b": {"right": 1, "far": 1}}


def test_prompts_by_hand():
    options = ["yes", "no"]
    # Of two examples right: 2 with the first prompt, 1 with the second, 0 with the third.
    answers = {"first": ["yes", "no"], "second": ["yes", "yes"], "third": ["no", "yes"]}
    records = [
        record(output, target, template=template, options=options)
        for template, outputs in answers.items()
        for output, target in zip(outputs, ["yes", "no"], strict=True)
    ]
    found = prompt_spread([*records, record(task="alone")], metric="accuracy")
    assert list(found) == ["t"]
    assert found["t"]["prompts"] == {"first": 1.0, "second": 0.5, "third": 0.0}
    assert (found["t"]["median"], found["t"]["lower_quartile"]) == (0.5, 0.25)
    assert (found["t"]["lowest"], found["t"]["highest"]) == (0.0, 1.0)


def test_accuracy_by_each_log_probability():
    numbers = [
        {"sum": [-1, -2], "mean": [-1, -0.5], "calibrated": [0.5, 0.2]},
        {"sum": [-1, -2], "mean": [-1, -0.5], "calibrated": [0.1, 0.2]},
    ]
    records = [
        record(target=target, options=["yes", "no"], option_logprobs=each)
        for target, each in zip(["yes", "no"], numbers, strict=True)
    ]
    assert choice_accuracy([*records, record()]) == {
        "t": {"sum": 0.5, "mean": 0.5, "calibrated": 1.0}
    }
