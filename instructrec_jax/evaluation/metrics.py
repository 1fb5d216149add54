"""Text metrics in [0, 1]: each an entry in `METRICS`, made of two functions.

`statistics` counts something of every example, and `of_sums` makes a figure of such counts summed
over any examples: over one example its own figure, over a task the task's, over a bootstrap draw
the draw's. So a metric of a whole corpus (chrF, BLEU, macro-F1) has intervals and paired tests as a
mean has. An output with several acceptable targets is judged by the best of them.

chrF (Popović 2015) is the primary metric: it works on characters, hence for Chinese, code and
English alike. ROUGE-L is reported because published instruction benchmarks use it; its tokenizer
keeps only a-z and 0-9, so **it is 0 on text without Latin letters or digits, right answers
included**. Words of BLEU and token F1 are set apart by white space. Read them beside chrF.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

PRIMARY_METRIC = "chrf"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLEU_ORDERS = 4


@dataclass(frozen=True)
class Judged:
    """An output and what it is judged by.

    `targets` are all acceptable answers, `options` the closed choices, `passed` whether its code
    did what the example asks for (None: there is nothing to run).
    """

    output: str
    targets: tuple[str, ...]
    options: tuple[str, ...] = ()
    passed: bool | None = None


# float64 [examples, counts], zeros for examples that the metric does not judge; None: no figure.
Statistics = Callable[[Sequence[Judged]], np.ndarray | None]


def exact_match(output: str, targets: Sequence[str]) -> float:
    """1.0 where `output` equals one of `targets`; white space around either does not count."""
    return float(output.strip() in {target.strip() for target in targets})


def normalised_match(output: str, targets: Sequence[str]) -> float:
    """Exact match of Super-NaturalInstructions: without case, ASCII punctuation, spare spaces."""
    return float(_plain(output) in set(map(_plain, targets)))


def token_f1(output: str, targets: Sequence[str]) -> float:
    """F1 of the words of both, best over `targets` (SQuAD, Rajpurkar et al. 2016).

    Without case, ASCII punctuation and English articles. Where either has no words, 1.0 if both
    have none.
    """
    return max(_word_f1(_words(output), _words(target)) for target in targets)


def rouge_l(output: str, targets: Sequence[str]) -> float:
    """ROUGE-L F1 with Porter stemming, best over `targets`, in [0, 1] (Lin 2004; rouge-score)."""
    return float(_rouge_scorer().score_multi(list(targets), output)["rougeL"].fmeasure)


def sentence_chrf(output: str, targets: Sequence[str]) -> float:
    """chrF2 of one output (sacrebleu's sentence score / 100), in [0, 1].

    White space is not compared (sacrebleu's `space:no`), so chrF 1.0 may still not be an exact
    match, and a target of white space alone scores 0.
    """
    return CHRF().sentence_score(output, list(targets)).score / 100


def accuracy(judged: Judged) -> float:
    """1.0 where the output is the right one of the options, case and outer white space aside."""
    return float(_choice(judged.output) in set(map(_choice, judged.targets)))


def _mean(example: Callable[[Judged], float], judges: Callable[[Judged], bool]) -> Statistics:
    """Statistics whose `of_sums` is `_ratio`: a figure and 1 of each example that is judged."""

    def statistics(judged: Sequence[Judged]) -> np.ndarray | None:
        rows = [(example(each), 1.0) if judges(each) else (0.0, 0.0) for each in judged]
        counts = np.array(rows, np.float64)
        return counts if counts[:, 1].any() else None

    return statistics


def _of_texts(function: Callable[[str, Sequence[str]], float]) -> Statistics:
    return _mean(lambda each: function(each.output, each.targets), lambda each: True)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """float64 [...] of [..., 2]; not a number where nothing was judged."""
    count = sums[..., 1]
    return np.where(count > 0, sums[..., 0] / np.maximum(count, 1), np.nan)


def _chrf_counts(judged: Sequence[Judged]) -> np.ndarray:
    """n-gram counts, [examples, 18]: of output, target and both for each order."""
    return _sacrebleu_counts(CHRF(), judged)


def _chrf(sums: np.ndarray) -> np.ndarray:
    """chrF2 of n-gram counts: precision and recall are means over the orders that both have."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    output, target, both = counts[..., 0], counts[..., 1], counts[..., 2]
    known = (output > 0) & (target > 0)
    orders = np.maximum(known.sum(axis=-1), 1)
    precision = (known * both / np.maximum(output, 1)).sum(axis=-1) / orders
    recall = (known * both / np.maximum(target, 1)).sum(axis=-1) / orders
    return 5 * precision * recall / np.maximum(4 * precision + recall, 1e-12)


def _bleu_counts(judged: Sequence[Judged]) -> np.ndarray:
    """[examples, 10]: lengths of output and target, n-grams in both, n-grams of the output."""
    return _sacrebleu_counts(BLEU(force=True), judged)


def _bleu(sums: np.ndarray, *, effective_order: bool = False) -> np.ndarray:
    """BLEU of such counts as sacrebleu has it: exponential smoothing, brevity penalty.

    `effective_order`, meant for single sentences, leaves out orders that the output is too short
    for; without it such an output scores 0.
    """
    output, target = sums[..., 0], sums[..., 1]
    matched, total = sums[..., 2 : 2 + _BLEU_ORDERS], sums[..., 2 + _BLEU_ORDERS :]
    exists = total > 0
    # The first order without a match counts half an n-gram, the next a quarter.
    unmatched = np.cumsum(exists & (matched == 0), axis=-1)
    precision = np.where(matched > 0, matched, 0.5**unmatched) / np.maximum(total, 1)
    logs = np.where(exists, np.log(precision), 0.0).sum(axis=-1)
    orders = exists.sum(axis=-1)
    brevity = np.exp(np.minimum(1 - target / np.maximum(output, 1e-9), 0.0))
    score = brevity * np.exp(logs / np.maximum(orders, 1))
    defined = matched.any(axis=-1) & (effective_order | (orders == _BLEU_ORDERS))
    return np.where(defined, score, 0.0)


def _sentence_bleu(counts: np.ndarray) -> np.ndarray:
    return _bleu(counts, effective_order=True)


def _label_counts(judged: Sequence[Judged]) -> np.ndarray | None:
    """[examples, 3 * labels]: right, wrongly given and missed, of each label that is a target.

    None where the examples have no options, or not all the same ones.
    """
    asked = [each for each in judged if each.options]
    if not asked or len({frozenset(each.options) for each in asked}) > 1:
        return None
    labels = sorted({_choice(each.targets[0]) for each in asked})
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(judged), len(labels), 3))
    for row, each in enumerate(judged):
        if not each.options:
            continue
        truth, given = _choice(each.targets[0]), _choice(each.output)
        if given == truth:
            counts[row, place[truth], 0] = 1
            continue
        counts[row, place[truth], 2] = 1
        if given in place:
            counts[row, place[given], 1] = 1
    return counts.reshape(len(judged), -1)


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean over labels of F1; labels that a draw of examples has nothing of are left out."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    right, given, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    exists = (right + missed) > 0
    f1 = 2 * right / np.maximum(2 * right + given + missed, 1)
    labels = exists.sum(axis=-1)
    return np.where(labels > 0, (exists * f1).sum(axis=-1) / np.maximum(labels, 1), np.nan)


@dataclass(frozen=True)
class Metric:
    """One metric.

    `of_sums` takes summed statistics, float64 [..., counts], to figures [...]; `of_one` does so for
    a single example's where that differs. `of_examples` tells whether an example has a figure of
    its own.
    """

    name: str
    title: str
    description: str
    statistics: Statistics
    of_sums: Callable[[np.ndarray], np.ndarray] = _ratio
    of_one: Callable[[np.ndarray], np.ndarray] | None = None
    of_examples: bool = True


METRICS: tuple[Metric, ...] = (
    Metric(
        name="exact_match",
        title="Exact match",
        description="Share of outputs equal to an acceptable target, outer white space aside.",
        statistics=_of_texts(exact_match),
    ),
    Metric(
        name="normalised_match",
        title="Normalised match",
        description="The same without case, punctuation and spare spaces.",
        statistics=_of_texts(normalised_match),
    ),
    Metric(
        name="token_f1",
        title="Token F1",
        description="F1 of the words of answer and target, as for SQuAD.",
        statistics=_of_texts(token_f1),
    ),
    Metric(
        name="chrf",
        title="chrF",
        description="Character n-gram F score; over a task's outputs together (corpus chrF2).",
        statistics=_chrf_counts,
        of_sums=_chrf,
    ),
    Metric(
        name="bleu",
        title="BLEU",
        description="Word n-gram precision; over a task's outputs together (corpus BLEU).",
        statistics=_bleu_counts,
        of_sums=_bleu,
        of_one=_sentence_bleu,
    ),
    Metric(
        name="rouge_l",
        title="ROUGE-L",
        description="Longest common word subsequence, F1, stemmed; 0 on non-Latin text.",
        statistics=_of_texts(rouge_l),
    ),
    Metric(
        name="accuracy",
        title="Accuracy",
        description="Share of outputs that are the right option; of examples with options.",
        statistics=_mean(accuracy, lambda each: bool(each.options)),
    ),
    Metric(
        name="macro_f1",
        title="Macro-F1",
        description="Mean of F1 over the labels that occur; where all examples have the same "
        "options. An answer that is no option is wrong for its label and given for none.",
        statistics=_label_counts,
        of_sums=_macro_f1,
        of_examples=False,
    ),
    Metric(
        name="pass_rate",
        title="Pass rate",
        description="Share of outputs whose code passes when it is run under guard; of examples "
        "that hold what is needed for it.",
        statistics=_mean(
            lambda each: float(bool(each.passed)), lambda each: each.passed is not None
        ),
    ),
)
METRIC_BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
# NLL by target tokens and by sequences, of a model's answers.
LOSSES = ("loss_per_token", "loss_per_sequence")
OF_SUMS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys(LOSSES, _ratio),
    **{metric.name: metric.of_sums for metric in METRICS},
}


def acceptable_targets(*, target: str, references: Sequence[str]) -> tuple[str, ...]:
    """The target and the references, each once, in order."""
    return tuple(dict.fromkeys((target, *references)))


def statistics_of(judged: Sequence[Judged]) -> dict[str, np.ndarray]:
    """{metric name: float64 [examples, counts]} of the metrics that judge any of the examples.

    Raises ValueError where there are no examples.
    """
    if not judged:
        raise ValueError("no outputs to judge")
    found = {metric.name: metric.statistics(judged) for metric in METRICS}
    return {name: counts for name, counts in found.items() if counts is not None}


def group_metrics(statistics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Every metric, and the losses where they are among the statistics, of all examples."""
    return {name: float(OF_SUMS[name](counts.sum(axis=0))) for name, counts in statistics.items()}


def example_metrics(statistics: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    """Every metric of each example; without those that do not judge it."""
    rows: list[dict[str, float]] = [{} for _ in next(iter(statistics.values()))]
    for name, counts in statistics.items():
        metric = METRIC_BY_NAME.get(name)
        if metric is None or not metric.of_examples:
            continue
        for row, figure in zip(rows, (metric.of_one or metric.of_sums)(counts), strict=True):
            if not np.isnan(figure):
                row[name] = float(figure)
    return rows


def signatures() -> dict[str, str]:
    """How each metric was computed, in a form that others can repeat."""
    sacrebleu = {}
    for name, scorer in (("chrf", CHRF()), ("bleu", BLEU())):
        scorer.corpus_score(["a"], [["a"]])
        sacrebleu[name] = scorer.get_signature().format().removeprefix("nrefs:1|")
    return {
        "exact_match": "case:mixed|strip:yes|references:any",
        "normalised_match": "case:lower|punctuation:no|articles:yes|references:any",
        "token_f1": "squad|case:lower|punctuation:no|articles:no|references:max",
        "chrf": f"chrF2|nrefs:var|{sacrebleu['chrf']}",
        "bleu": f"BLEU|nrefs:var|{sacrebleu['bleu']}",
        "rouge_l": "rouge-score|rougeL|stemmer:porter|fmeasure|references:max",
        "accuracy": "case:lower|strip:yes|references:any",
        "macro_f1": "case:lower|strip:yes|labels:targets|references:first",
        "pass_rate": "pass@1|guarded|seconds:computing time",
    }


def _sacrebleu_counts(scorer: Any, judged: Sequence[Judged]) -> np.ndarray:
    most = max(len(each.targets) for each in judged)
    streams = [
        [each.targets[i] if i < len(each.targets) else None for each in judged] for i in range(most)
    ]
    counts = scorer._extract_corpus_statistics([each.output for each in judged], streams)
    return np.array(counts, np.float64)


def _plain(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _word_f1(output: Sequence[str], target: Sequence[str]) -> float:
    if not output or not target:
        return float(output == target)
    common = (Counter(output) & Counter(target)).total()
    return 2 * common / (len(output) + len(target))


def _choice(text: str) -> str:
    return " ".join(text.split()).casefold()


@cache
def _rouge_scorer() -> Any:
    # Late, because it loads nltk: more than a second that training need not wait for.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
