"""The paired bootstrap: the same chrF as the metric, and intervals that mean something."""

import pytest

from instructrec_jax.evaluation.metrics import corpus_chrf
from instructrec_jax.evaluation.significance import chrf_difference

TARGETS = [
    [f"the number {i} is here", f"number {i}"] if i % 3 else [f"item {i}"] for i in range(40)
]
TARGETS.append(["一二三"])
RIGHT = [each[-1] for each in TARGETS]
WRONG = [f"something {i}" for i in range(len(TARGETS))]


def test_the_difference_is_that_of_the_metric():
    for outputs, baseline in ((RIGHT, WRONG), (WRONG, [""] * len(TARGETS)), (WRONG, RIGHT)):
        expected = corpus_chrf(outputs, TARGETS) - corpus_chrf(baseline, TARGETS)
        found = chrf_difference(outputs, baseline, TARGETS)
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.low <= found.value <= found.high


def test_a_clear_difference_a_doubtful_one_and_none():
    assert chrf_difference(RIGHT, WRONG, TARGETS).low > 0
    assert chrf_difference(WRONG, RIGHT, TARGETS).high < 0
    # Each is right on every other one.
    pairs = list(zip(RIGHT, WRONG, strict=True))
    some = [pair[i // 2 % 2] for i, pair in enumerate(pairs)]
    rest = [pair[1 - i // 2 % 2] for i, pair in enumerate(pairs)]
    doubtful = chrf_difference(some, rest, TARGETS)
    assert doubtful.low < 0 < doubtful.high
    same = chrf_difference(some, some, TARGETS)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_the_same_each_time_and_a_point_for_one_example():
    assert chrf_difference(RIGHT, WRONG, TARGETS) == chrf_difference(RIGHT, WRONG, TARGETS)
    one = chrf_difference(["a b c"], ["x"], [["a b c"]])
    assert (one.low, one.value, one.high) == (1, 1, 1)
