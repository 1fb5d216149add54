"""Which answers are shown, and how differences are marked."""

from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.evaluation.samples import (
    MAX_CHARACTERS,
    MAX_SAMPLES,
    choose_samples,
    differing,
    from_training,
    learning_journeys,
    sample_figures,
)


def prediction(index: int, *, chrf: float, task: str = "t") -> dict:
    return {
        "id": f"{task}/{index}",
        "task": task,
        "holdout": "document",
        "instruction": "Do.",
        "input": "",
        "target": "a b",
        "output": "a c",
        "chrf": chrf,
        "exact_match": 0.0,
        "stop_reason": "length" if index == 0 else "eos",
    }


def test_all_of_a_small_evaluation_worst_first():
    samples = choose_samples([prediction(i, chrf=1 - i / 10) for i in range(10)])
    assert [sample.id for sample in samples] == [f"t/{i}" for i in range(9, -1, -1)]
    assert [sample.stopped_by_length for sample in samples] == [False] * 9 + [True]


def test_a_large_evaluation_keeps_worst_best_and_some_between_of_each_task():
    predictions = [
        prediction(i, chrf=i / 1000, task=task) for i in range(1000) for task in ("a", "b")
    ]
    samples = choose_samples(predictions)
    assert len(samples) == MAX_SAMPLES
    for task in ("a", "b"):
        figures = [sample.chrf for sample in samples if sample.task == task]
        assert len(figures) == MAX_SAMPLES // 2
        assert figures[:66] == [i / 1000 for i in range(66)]
        assert figures[-66:] == [i / 1000 for i in range(934, 1000)]
    assert choose_samples(predictions) == samples
    assert choose_samples([]) == []


def test_words_that_the_target_lacks_are_marked():
    shown = differing("Return the new value", "Return the value")
    assert shown.pieces == (("Return the ", False), ("new ", True), ("value", False))
    assert differing("阿拉伯", "阿尔巴尼亚").pieces == (("阿", False), ("拉伯", True))
    assert differing("", "x").pieces == ()


@settings(max_examples=100, deadline=None)
@given(output=st.text(max_size=40), target=st.text(max_size=40))
def test_pieces_are_the_output(output, target):
    shown = differing(output, target)
    assert "".join(piece for piece, _ in shown.pieces) == output
    if output == target:
        assert not any(differs for _, differs in shown.pieces)


def test_long_texts_say_what_is_left_out():
    shown = differing("x" * (MAX_CHARACTERS + 7), "x")
    assert sum(len(piece) for piece, _ in shown.pieces) == MAX_CHARACTERS
    assert shown.left_out == 7


def record(name: str, step: int, output: str) -> dict:
    return {
        "step": step,
        "id": name,
        "task": "t",
        "instruction": "Do.",
        "input": "",
        "target": "abc",
        "output": output,
    }


def test_training_samples_become_predictions_of_their_newest_step():
    predictions = from_training([record("x", 1, "a"), record("y", 1, "z"), record("x", 2, " abc ")])
    assert [
        (each["id"], each["holdout"], each["chrf"], each["exact_match"]) for each in predictions
    ] == [("x", "step 2", 1.0, 1.0), ("y", "step 1", 0.0, 0.0)]


def test_journeys_show_first_and_last_and_skip_examples_seen_once():
    records = [record("x", step, "a" * step) for step in range(1, 21)] + [record("y", 3, "b")]
    (journey,) = learning_journeys(records, steps=6)
    steps = [station["step"] for station in journey["stations"]]
    assert steps[0] == 1
    assert steps[-1] == 20
    assert len(steps) == 6


def test_figures_of_samples_are_means_over_tasks():
    records = [
        {"task": "a", "output": "x", "target": "x"},
        {"task": "a", "output": "y", "target": "x"},
        {"task": "b", "output": "x", "target": "x"},
    ]
    figures = sample_figures(records)
    assert figures["sample_exact_match"] == figures["sample_token_f1"] == 0.75
    assert set(figures) == {"sample_exact_match", "sample_token_f1", "sample_chrf"}
    assert sample_figures([]) == {}
