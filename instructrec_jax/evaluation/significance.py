"""Could the choice of examples have made a figure, or a difference of figures, what it is?

Bootstrap (Efron, 1979; paired: Koehn, 2004, "Statistical Significance Tests for Machine Translation
Evaluation"): examples are drawn with replacement, 1,000 times, and the interval lies between the
2.5th and 97.5th percentile of the figures. The draws depend on the number of examples alone, so
they are the same for every system that answered them: differences are paired. With few examples an
interval is too narrow, with one it is a point; so tests of two systems swap their answers instead.

Examples of one document, or one question under several prompts, are right and wrong together. What
is drawn or swapped is therefore the whole cluster of them (`by_cluster`; Field and Welsh, 2007,
"Bootstrapping Clustered Data"). Tasks are drawn apart from each other.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instructrec_jax.evaluation.metrics import OF_SUMS

RESAMPLES = 1_000
COVERAGE = 0.95
# Numbers of draws times examples that are held at once.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Difference:
    """A figure of one system minus that of another, with its interval."""

    value: float
    low: float
    high: float


def by_cluster(statistics: np.ndarray, clusters: Sequence[str]) -> np.ndarray:
    """Sums of the statistics of each cluster, float64 [clusters, counts], for all that follows.

    A figure is of sums over all examples, so it is the same of these as of the examples' own
    `statistics`, float64 [examples, counts].
    """
    _, places = np.unique(np.asarray(clusters, dtype=object), return_inverse=True)
    sums = np.zeros((places.max() + 1, statistics.shape[1]))
    np.add.at(sums, places, statistics)
    return sums


def resampled(
    of_sums: Callable[[np.ndarray], np.ndarray],
    statistics: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """A metric's figure of each draw, float64 [resamples].

    `statistics` and `of_sums` are those of the metric, float64 [examples, counts]; the other
    systems' figures on the same examples come from the same draws.
    """
    figures = [
        of_sums(times @ statistics)
        for times in _draws(len(statistics), seed=seed, resamples=resamples)
    ]
    return np.concatenate(figures)


def interval(figures: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of resampled figures, leaving out those that are none."""
    known = figures[~np.isnan(figures)]
    if not len(known):
        return math.nan, math.nan
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    metric: str, first: np.ndarray, second: np.ndarray, *, seed: int = 0
) -> Difference:
    """Figure of the `first` statistics minus that of the `second`, both [examples, counts]."""
    entry = OF_SUMS[metric]
    value = entry(first.sum(axis=0)) - entry(second.sum(axis=0))
    low, high = interval(resampled(entry, first, seed=seed) - resampled(entry, second, seed=seed))
    return Difference(value=float(value), low=low, high=high)


def mean_difference(
    metric: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0
) -> Difference:
    """Mean over tasks of their paired differences; the examples of each task are drawn apart."""
    entry = OF_SUMS[metric]
    values = [entry(a.sum(axis=0)) - entry(b.sum(axis=0)) for a, b in pairs]
    drawn = [
        resampled(entry, a, seed=seed + place) - resampled(entry, b, seed=seed + place)
        for place, (a, b) in enumerate(pairs)
    ]
    low, high = interval(np.mean(drawn, axis=0))
    return Difference(value=float(np.mean(values)), low=low, high=high)


def intervals(statistics: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """{metric name: [low, high]} of one group of examples."""
    return {
        name: list(interval(resampled(OF_SUMS[name], counts)))
        for name, counts in statistics.items()
    }


def mean_intervals(groups: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """{metric name: [low, high]} of the unweighted means over the groups that have the metric."""
    found = {}
    for name in dict.fromkeys(name for group in groups for name in group):
        drawn = [
            resampled(OF_SUMS[name], group[name], seed=place)
            for place, group in enumerate(groups)
            if name in group
        ]
        found[name] = list(interval(np.mean(drawn, axis=0)))
    return found


def sign_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value that neither of two systems is more often the better one; ties left out."""
    wins = sum(a > b for a, b in zip(first, second, strict=True))
    losses = sum(a < b for a, b in zip(first, second, strict=True))
    decided, fewer = wins + losses, min(wins, losses)
    if not decided:
        return 1.0
    # Exact integers: of 2^decided outcomes, those at least as one-sided.
    tail = sum(math.comb(decided, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**decided)


def swapped_differences(
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Differences, float64 [resamples], if it were chance which system gave which answer.

    Of each cluster the two systems' statistics, float64 [clusters, counts], change places with
    probability 1/2: approximate randomisation (Noreen, 1989, "Computer-Intensive Methods for
    Testing Hypotheses"; Riezler and Maxwell, 2005, "On Some Pitfalls in Automatic Evaluation and
    Significance Testing for MT").
    """
    of_sums = OF_SUMS[metric]
    change = second - first
    change = change[np.any(change != 0, axis=1)]
    totals = first.sum(axis=0), second.sum(axis=0)
    generator = np.random.Generator(np.random.Philox(seed))
    rows = max(1, _CHUNK // max(len(change), 1))
    found = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        moved = generator.integers(0, 2, (count, len(change)), np.int8).astype(np.float64) @ change
        found.append(of_sums(totals[1] - moved) - of_sums(totals[0] + moved))
    return np.concatenate(found)


def randomisation_p_value(difference: float, swapped: np.ndarray) -> float:
    """Two-sided p-value of a difference, of those that chance alone gives [resamples].

    The share of these that are at least as far from 0, the difference itself counted among them:
    never below 1 / (resamples + 1), and with 4 wins and no loss about 2 / 2^4, as it should be; a
    bootstrap makes 0.03 of that.
    """
    known = swapped[~np.isnan(swapped)]
    # Sums in another order differ in their last digits.
    as_far = np.abs(known) >= abs(difference) - 1e-12
    return float((as_far.sum() + 1) / (len(known) + 1))


def corrected_p_values(differences: Sequence[float], swapped: Sequence[np.ndarray]) -> list[float]:
    """Two-sided p-values of several differences, corrected for their number.

    Each draw of `swapped` (of each difference those by chance, [resamples]) gives the greatest
    distance from 0 that chance makes anywhere, in standard deviations of its own difference: the
    step-down maximum of Westfall and Young (1993, "Resampling-Based Multiple Testing"; algorithm
    in Ge, Dudoit and Speed, 2003, "Resampling-based multiple testing for microarray data
    analysis"). Unlike a multiple of the p-values it can show a difference among any number: a
    p-value of few draws, times a thousand, cannot.
    """
    spread = np.array([np.nanstd(draws) for draws in swapped])
    # A draw without a figure counts as far away, which shows nothing that is not there.
    drawn = np.nan_to_num(np.abs(np.array(swapped)), nan=math.inf)
    distance = np.abs(np.asarray(differences, np.float64))
    known = (spread > 0) & ~np.isnan(distance)
    order = sorted(np.flatnonzero(known), key=lambda place: -distance[place] / spread[place])
    greatest = np.zeros(drawn.shape[1])
    p_values = [1.0] * len(differences)
    for place in reversed(order):
        greatest = np.maximum(greatest, drawn[place] / spread[place])
        # Sums in another order differ in their last digits.
        as_far = greatest >= distance[place] / spread[place] - 1e-9
        p_values[place] = float((as_far.sum() + 1) / (len(greatest) + 1))
    highest = 0.0
    for place in order:
        p_values[place] = highest = max(highest, p_values[place])
    return p_values


def _draws(examples: int, *, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each example was drawn, float64 [some of the resamples, examples]."""
    generator = np.random.Generator(np.random.Philox(seed))
    rows = max(1, _CHUNK // max(examples, 1))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, examples, (count, examples))
        drawn += np.arange(count)[:, None] * examples
        times = np.bincount(drawn.ravel(), minlength=count * examples)
        yield times.reshape(count, examples).astype(np.float64)
