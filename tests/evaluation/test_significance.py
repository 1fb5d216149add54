"""The paired bootstrap, the sign test and Holm's correction."""

import numpy as np
import pytest

from instructrec_jax.evaluation.metrics import OF_SUMS, Judged, group_metrics, statistics_of
from instructrec_jax.evaluation.significance import (
    bootstrap_p_value,
    holm,
    intervals,
    mean_difference,
    mean_intervals,
    paired_difference,
    resampled,
    sign_test,
)

TARGETS = [
    (f"the number {i} is here", f"number {i}") if i % 3 else (f"item {i}",) for i in range(40)
]
TARGETS.append(("一二三",))
RIGHT = [each[-1] for each in TARGETS]
WRONG = [f"something {i}" for i in range(len(TARGETS))]


def statistics(outputs, targets=TARGETS):
    return statistics_of([Judged(*pair) for pair in zip(outputs, targets, strict=True)])


def difference(first, second, metric="chrf"):
    return paired_difference(metric, statistics(first)[metric], statistics(second)[metric])


@pytest.mark.parametrize("metric", ["chrf", "bleu", "exact_match"])
def test_the_difference_is_that_of_the_metric(metric):
    for outputs, baseline in ((RIGHT, WRONG), (WRONG, [""] * len(TARGETS)), (WRONG, RIGHT)):
        figures = [group_metrics(statistics(each))[metric] for each in (outputs, baseline)]
        found = difference(outputs, baseline, metric)
        assert found.value == pytest.approx(figures[0] - figures[1], abs=1e-12)
        assert found.low <= found.value <= found.high


def test_a_clear_difference_a_doubtful_one_and_none():
    assert difference(RIGHT, WRONG).low > 0
    assert difference(WRONG, RIGHT).high < 0
    # Each is right on every other one.
    pairs = list(zip(RIGHT, WRONG, strict=True))
    some = [pair[i // 2 % 2] for i, pair in enumerate(pairs)]
    rest = [pair[1 - i // 2 % 2] for i, pair in enumerate(pairs)]
    doubtful = difference(some, rest)
    assert doubtful.low < 0 < doubtful.high
    same = difference(some, some)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_the_same_each_time_and_a_point_for_one_example():
    assert difference(RIGHT, WRONG) == difference(RIGHT, WRONG)
    counts = [statistics([text], [("a b c",)])["chrf"] for text in ("a b c", "x")]
    one = paired_difference("chrf", *counts)
    assert (one.low, one.value, one.high) == (1, 1, 1)


def test_intervals_of_a_share_are_those_of_the_binomial_distribution():
    counts = np.array([[float(i < 30), 1.0] for i in range(100)])
    low, high = intervals({"exact_match": counts})["exact_match"]
    # 0.3 -+ 1.96 * sqrt(0.3 * 0.7 / 100)
    assert (low, high) == pytest.approx((0.21, 0.39), abs=0.011)
    # A mean over four such tasks is twice as sure.
    narrow = mean_intervals([{"exact_match": counts}] * 4)["exact_match"]
    assert narrow == pytest.approx((0.255, 0.345), abs=0.007)
    worse = counts * [0.5, 1]
    mean = mean_difference("exact_match", [(counts, worse)] * 4)
    assert mean.value == pytest.approx(0.15)
    assert 0 < mean.low < mean.value < mean.high


def test_many_examples_are_drawn_in_parts():
    counts = np.ones((9_000, 2))
    assert (resampled(OF_SUMS["exact_match"], counts, resamples=1_000) == 1).all()


def test_sign_test_by_hand():
    # 4 wins, 1 loss, 2 ties: 2 * (1 + 5) / 32.
    assert sign_test([1, 1, 1, 1, 0, 2, 2], [0, 0, 0, 0, 1, 2, 2]) == pytest.approx(12 / 32)
    assert sign_test([1, 1], [1, 1]) == 1.0
    assert sign_test([1, 0], [0, 1]) == 1.0


def test_bootstrap_p_value_and_holm_by_hand():
    assert bootstrap_p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p_value(np.zeros(999)) == 1.0
    # Smallest times 3, next times 2, largest times 1, and none below the one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
