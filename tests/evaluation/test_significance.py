"""The paired bootstrap, the sign test, swapped answers and the correction for many tasks."""

import numpy as np
import pytest

from instructrec_jax.evaluation.metrics import OF_SUMS, Judged, group_metrics, statistics_of
from instructrec_jax.evaluation.significance import (
    by_cluster,
    cluster_keys,
    corrected_p_values,
    interval,
    intervals,
    mean_difference,
    mean_intervals,
    paired_difference,
    randomisation_p_value,
    resampled,
    sign_test,
    swapped_differences,
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
    # A mean over four such tasks is twice as sure; not where they are of the same documents.
    own = [cluster_keys([f"{task} {i:02}" for i in range(100)]) for task in range(4)]
    narrow = mean_intervals([{"exact_match": counts}] * 4, own)["exact_match"]
    assert narrow == pytest.approx((0.255, 0.345), abs=0.007)
    same = mean_intervals([{"exact_match": counts}] * 4, own[:1] * 4)["exact_match"]
    assert same == pytest.approx((0.21, 0.39), abs=0.011)
    worse = counts * [0.5, 1]
    mean = mean_difference("exact_match", [(counts, worse)] * 4, own)
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


@pytest.mark.parametrize(("wins", "losses"), [(4, 0), (5, 1), (12, 3), (7, 7)])
def test_swapping_has_the_p_value_of_the_sign_test_where_answers_are_right_or_wrong(wins, losses):
    first = np.array([[0, 1]] * wins + [[1, 1]] * losses + [[1, 1], [0, 1]] * 20, np.float64)
    second = np.array([[1, 1]] * wins + [[0, 1]] * losses + [[1, 1], [0, 1]] * 20, np.float64)
    swapped = swapped_differences("exact_match", first, second, resamples=20_000)
    value = (wins - losses) / len(first)
    exact = sign_test(second[:, 0], first[:, 0])
    assert randomisation_p_value(value, swapped) == pytest.approx(exact, abs=0.01)
    # What is swapped is lost by one and won by the other.
    back = swapped_differences("exact_match", second, first, resamples=20_000)
    assert back.mean() == pytest.approx(0, abs=0.002)


def test_swapping_everything_turns_a_corpus_figure_round():
    first, second = (statistics(each[:1], TARGETS[:1])["chrf"] for each in (RIGHT, WRONG))
    value = float(OF_SUMS["chrf"](second.sum(axis=0)) - OF_SUMS["chrf"](first.sum(axis=0)))
    swapped = swapped_differences("chrf", first, second, resamples=50)
    assert set(np.round(swapped, 12)) == {round(value, 12), round(-value, 12)}
    assert randomisation_p_value(value, swapped) == 1.0


def test_statistics_of_a_cluster_are_summed():
    counts = np.array([[1.0, 1], [0, 1], [1, 1]])
    assert by_cluster(counts, ["b", "a", "b"]).tolist() == [[0, 1], [2, 2]]


def test_systems_that_are_alike_differ_as_often_as_the_level_says():
    # 30 questions under 10 prompts: who knows one is right under them all.
    random = np.random.default_rng(7)
    clusters = [f"q{number // 10}" for number in range(300)]
    outside, found = {"examples": 0, "clusters": 0}, 0
    for trial in range(150):
        right = [np.repeat(random.integers(0, 2, 30), 10) for _ in range(2)]
        first, second = (np.stack([each, np.ones(300)], axis=1).astype(float) for each in right)
        units = {"examples": (first, second)}
        keys = cluster_keys([f"{trial} {place}" for place in range(300)])
        units["clusters"] = tuple(by_cluster(each, clusters) for each in (first, second))
        for name, (old, new) in units.items():
            draws = [
                resampled(OF_SUMS["exact_match"], each, keys=keys[: len(each)], resamples=300)
                for each in (old, new)
            ]
            low, high = interval(draws[1] - draws[0])
            outside[name] += not low <= 0 <= high
        swapped = swapped_differences(
            "exact_match", *units["clusters"], keys=keys[:30], resamples=300
        )
        value = float(right[1].mean() - right[0].mean())
        found += randomisation_p_value(value, swapped) < 0.05
    assert outside["examples"] > 60  # Four in ten: what drawing them apart would say.
    assert outside["clusters"] <= 15 and found <= 13


def test_a_difference_is_shown_among_any_number_and_chance_is_not():
    random = np.random.default_rng(5)
    ones = np.ones((30, 1))

    def pair(right):
        old, new = ((random.random((30, 1)) < share).astype(float) for share in right)
        return np.hstack([old, ones]), np.hstack([new, ones])

    pairs = [pair((0.5, 0.5)) for _ in range(600)]
    pairs[77] = pair((0.0, 1.0))
    pairs[78] = (pairs[77][0],) * 2
    values = [float(new[:, 0].mean() - old[:, 0].mean()) for old, new in pairs]
    swapped = [
        swapped_differences(
            "exact_match", *each, keys=cluster_keys([f"{place} {i}" for i in range(30)])
        )
        for place, each in enumerate(pairs)
    ]
    p_values = [randomisation_p_value(*each) for each in zip(values, swapped, strict=True)]
    corrected = corrected_p_values(values, swapped)
    assert corrected[77] < 0.05 < 600 * p_values[77]
    assert sum(p < 0.05 for p in p_values) > 5
    assert [place for place, p in enumerate(corrected) if p < 0.05] == [77]
    assert corrected[78] == 1.0
    assert all(new >= old for new, old in zip(corrected, p_values, strict=True))


def test_corrected_p_values_by_hand():
    # Nine draws; distances in standard deviations: 3 and 1 of the two.
    first, second = np.array([2.0, -2, 1] * 3), np.array([1.0, -1, 0] * 3)
    values = [3 * first.std(), 1 * second.std()]
    # No draw reaches 3; 6 of 9 of the second reach 1, and none less than the one before.
    assert corrected_p_values(values, [first, second]) == pytest.approx([0.1, 0.7])
    assert corrected_p_values(values[::-1], [second, first]) == pytest.approx([0.7, 0.1])
    # One alone is as without a correction.
    assert corrected_p_values([1.5], [first]) == [randomisation_p_value(1.5, first)]


def test_no_draw_as_far_is_no_certainty():
    assert randomisation_p_value(0.5, np.zeros(999)) == pytest.approx(1 / 1000)
    assert randomisation_p_value(0.0, np.zeros(999)) == 1.0
