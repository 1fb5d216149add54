"""Is a model above a floor, or could the choice of examples have made it look so?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import CHRF

from instructrec_jax.evaluation.metrics import target_streams

RESAMPLES = 1_000
COVERAGE = 0.95


@dataclass(frozen=True)
class Difference:
    """Corpus chrF of one list of outputs minus that of another, fractions, with its interval."""

    value: float
    low: float
    high: float


def chrf_difference(
    outputs: Sequence[str],
    baseline: Sequence[str],
    targets: Sequence[Sequence[str]],
    *,
    seed: int = 0,
) -> Difference:
    """Corpus chrF2 of `outputs` minus that of `baseline`, with a 95 % interval.

    Paired bootstrap (Koehn, 2004, "Statistical Significance Tests for Machine Translation
    Evaluation"): examples are drawn with replacement, the same for both, 1,000 times; the interval
    lies between the 2.5th and 97.5th percentile of the differences. With few examples it is too
    narrow, with one it is a point.
    """
    streams = target_streams(targets)
    # n-gram counts of each example, int64 [2, examples, 18]; sums of them give a corpus chrF.
    counts = np.stack(
        [
            np.array(CHRF()._extract_corpus_statistics(list(texts), streams), np.int64)
            for texts in (outputs, baseline)
        ]
    )
    examples = counts.shape[1]
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = np.stack(
        [counts[:, generator.integers(0, examples, examples)].sum(axis=1) for _ in range(RESAMPLES)]
    )
    differences = _chrf(drawn[:, 0]) - _chrf(drawn[:, 1])
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    whole = _chrf(counts.sum(axis=1))
    return Difference(value=float(whole[0] - whole[1]), low=float(low), high=float(high))


def _chrf(counts: np.ndarray) -> np.ndarray:
    """chrF2 in [0, 1], float64 [rows], of n-gram counts, int64 [rows, 3 * orders].

    The three counts of an order are those of the output, of the target and of both. Precision and
    recall are means over the orders that both texts have (as in sacrebleu).
    """
    output, target, both = np.moveaxis(counts.reshape(len(counts), -1, 3), 2, 0)
    known = (output > 0) & (target > 0)
    orders = np.maximum(known.sum(axis=1), 1)
    precision = (known * both / np.maximum(output, 1)).sum(axis=1) / orders
    recall = (known * both / np.maximum(target, 1)).sum(axis=1) / orders
    return 5 * precision * recall / np.maximum(4 * precision + recall, 1e-12)
