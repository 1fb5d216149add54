"""Could the choice of examples have made a figure, or a difference of figures, what it is?

Bootstrap (Efron, 1979; paired: Koehn, 2004, "Statistical Significance Tests for Machine Translation
Evaluation"): examples are drawn with replacement, 1,000 times, and the interval lies between the
2.5th and 97.5th percentile of the figures. How often a draw holds an example follows Poisson's
distribution of mean 1 (Hanley and MacGibbon, 2006, "Creating non-parametric bootstrap samples using
Poisson frequencies") and hangs on the example and the draw alone, so it is the same for every
system that answered it: differences are paired. With few examples an interval is too narrow, with
one it is a point; so tests of two systems swap their answers instead.

Examples of one document, or one question under several prompts, are right and wrong together. What
is drawn or swapped is therefore the whole cluster of them (`by_cluster`; Field and Welsh, 2007,
"Bootstrapping Clustered Data"). A document that gave examples to several tasks is drawn or swapped
in all of them at once: means over these tasks are no surer than the documents make them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instructrec_jax.evaluation.metrics import OF_SUMS
from instructrec_jax.instructions import hashing

RESAMPLES = 1_000
COVERAGE = 0.95
# Numbers of draws times examples that are held at once.
_CHUNK = 4_000_000
# How often a draw holds a cluster, by 16 random bits: Poisson's distribution of mean 1.
_TIMES = np.searchsorted(
    np.cumsum([math.exp(-1) / math.factorial(times) for times in range(9)]),
    (np.arange(65_536) + 0.5) / 65_536,
).astype(np.float64)


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


def cluster_keys(clusters: Sequence[str]) -> np.ndarray:
    """What the draws of each cluster hang on, uint64 [clusters], in the order of `by_cluster`."""
    return np.array([int(hashing.digest(name), 16) for name in sorted(set(clusters))], np.uint64)


def resampled(
    of_sums: Callable[[np.ndarray], np.ndarray],
    statistics: np.ndarray,
    *,
    keys: np.ndarray | None = None,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """A metric's figure of each draw, float64 [resamples].

    `statistics` and `of_sums` are those of the metric, float64 [clusters, counts], `keys` the
    clusters' (None: their places); other figures of the same clusters come from the same draws.
    """
    figures = []
    for bits in _random_bits(_known(keys, statistics), resamples):
        times = _TIMES[bits >> np.uint64(48)]
        times[~times.any(axis=1)] = 1.0  # An empty draw has no figure: all, once each.
        figures.append(of_sums(times @ statistics))
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
    metric: str, first: np.ndarray, second: np.ndarray, *, keys: np.ndarray | None = None
) -> Difference:
    """Figure of the `first` statistics minus that of the `second`, both [clusters, counts]."""
    entry = OF_SUMS[metric]
    value = entry(first.sum(axis=0)) - entry(second.sum(axis=0))
    low, high = interval(resampled(entry, first, keys=keys) - resampled(entry, second, keys=keys))
    return Difference(value=float(value), low=low, high=high)


def mean_difference(
    metric: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], keys: Sequence[np.ndarray]
) -> Difference:
    """Mean over tasks of their paired differences; `keys` are those of each task's clusters."""
    entry = OF_SUMS[metric]
    values = [entry(a.sum(axis=0)) - entry(b.sum(axis=0)) for a, b in pairs]
    drawn = [
        resampled(entry, a, keys=own) - resampled(entry, b, keys=own)
        for (a, b), own in zip(pairs, keys, strict=True)
    ]
    low, high = interval(np.mean(drawn, axis=0))
    return Difference(value=float(np.mean(values)), low=low, high=high)


def intervals(
    statistics: Mapping[str, np.ndarray], *, keys: np.ndarray | None = None
) -> dict[str, list[float]]:
    """{metric name: [low, high]} of one group of examples."""
    return {
        name: list(interval(resampled(OF_SUMS[name], counts, keys=keys)))
        for name, counts in statistics.items()
    }


def mean_intervals(
    groups: Sequence[Mapping[str, np.ndarray]], keys: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """{metric name: [low, high]} of the unweighted means over the groups that have the metric."""
    found = {}
    for name in dict.fromkeys(name for group in groups for name in group):
        drawn = [
            resampled(OF_SUMS[name], group[name], keys=own)
            for group, own in zip(groups, keys, strict=True)
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
    keys: np.ndarray | None = None,
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
    differs = np.any(change != 0, axis=1)
    totals = first.sum(axis=0), second.sum(axis=0)
    found = []
    for bits in _random_bits(_known(keys, first)[differs], resamples):
        moved = (bits >> np.uint64(63)).astype(np.float64) @ change[differs]
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


def _known(keys: np.ndarray | None, statistics: np.ndarray) -> np.ndarray:
    return np.arange(len(statistics), dtype=np.uint64) if keys is None else keys


def _random_bits(keys: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """64 random bits of each key in each draw, uint64 [some of the resamples, keys].

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number
    generators") of the key and the draw's number: no draw hangs on what else is drawn.
    """
    rows = max(1, _CHUNK // max(len(keys), 1))
    for start in range(0, resamples, rows):
        numbers = np.arange(start + 1, min(start + rows, resamples) + 1, dtype=np.uint64)
        bits = keys + numbers[:, None] * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            bits ^= bits >> np.uint64(shift)
            bits *= np.uint64(factor)
        bits ^= bits >> np.uint64(31)
        yield bits
