"""Text metrics, each a function from one output and its acceptable targets to a figure in [0, 1].

A metric is one function and one entry in `METRICS`; floors, protocol, report and notebook pick it
up from there. An output with several acceptable targets gets its best figure over them.

chrF (Popović 2015) is the primary metric: it works on characters, hence for Chinese, code and
English alike. ROUGE-L is reported because published instruction benchmarks use it; its tokenizer
keeps only a-z and 0-9, so **it is 0 on text without Latin letters or digits, right answers
included**. Read it beside chrF, never alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sacrebleu.metrics import CHRF

PRIMARY_METRIC = "chrf"


def exact_match(output: str, targets: Sequence[str]) -> float:
    """1.0 where `output` equals one of `targets`; white space around either does not count."""
    return float(output.strip() in {target.strip() for target in targets})


def sentence_chrf(output: str, targets: Sequence[str]) -> float:
    """chrF2 of one output (sacrebleu's sentence score / 100), in [0, 1].

    White space is not compared (sacrebleu's `space:no`), so chrF 1.0 may still not be an exact
    match, and a target of white space alone scores 0.
    """
    return CHRF().sentence_score(output, list(targets)).score / 100


def corpus_chrf(outputs: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """chrF2 over all outputs together (sacrebleu's corpus score / 100), in [0, 1].

    n-grams are counted over the whole list before the F score, so an output weighs by its length:
    steadier than the mean of sentence scores where targets are a word or two.
    """
    return CHRF().corpus_score(list(outputs), target_streams(targets)).score / 100


def target_streams(targets: Sequence[Sequence[str]]) -> list[Any]:
    """What sacrebleu wants: the first target of every output, then the second or None, ..."""
    most = max(len(each) for each in targets)
    return [[each[i] if i < len(each) else None for each in targets] for i in range(most)]


def rouge_l(output: str, targets: Sequence[str]) -> float:
    """ROUGE-L F1 with Porter stemming, best over `targets`, in [0, 1] (Lin 2004; rouge-score)."""
    return float(_rouge_scorer().score_multi(list(targets), output)["rougeL"].fmeasure)


@dataclass(frozen=True)
class Metric:
    """One metric: its figure for an example and, where that is not the mean, for a whole task."""

    name: str
    title: str
    description: str
    example: Callable[[str, Sequence[str]], float]
    corpus: Callable[[Sequence[str], Sequence[Sequence[str]]], float] | None = None


METRICS: tuple[Metric, ...] = (
    Metric(
        name="exact_match",
        title="Exact match",
        description="Share of outputs equal to an acceptable target, outer white space aside.",
        example=exact_match,
    ),
    Metric(
        name="chrf",
        title="chrF",
        description="Character n-gram F score; over a task's outputs together (corpus chrF2).",
        example=sentence_chrf,
        corpus=corpus_chrf,
    ),
    Metric(
        name="rouge_l",
        title="ROUGE-L",
        description="Longest common word subsequence, F1, stemmed; 0 on non-Latin text.",
        example=rouge_l,
    ),
)


def acceptable_targets(*, target: str, references: Sequence[str]) -> tuple[str, ...]:
    """The target and the references, each once, in order."""
    return tuple(dict.fromkeys((target, *references)))


def example_metrics(output: str, targets: Sequence[str]) -> dict[str, float]:
    """Every metric of one output: {metric name: figure}."""
    return {metric.name: metric.example(output, targets) for metric in METRICS}


def group_metrics(
    outputs: Sequence[str],
    targets: Sequence[Sequence[str]],
    per_example: Sequence[dict[str, float]] | None = None,
) -> dict[str, float]:
    """Every metric of a group of outputs: the corpus figure, or the mean over examples.

    `per_example` holds `example_metrics` of each output where they are known already.
    Raises ValueError on an empty group.
    """
    if not outputs or len(outputs) != len(targets):
        raise ValueError(f"{len(outputs)} outputs and {len(targets)} lists of targets")
    figures: dict[str, float] = {}
    for metric in METRICS:
        if metric.corpus is not None:
            figures[metric.name] = metric.corpus(outputs, targets)
        elif per_example is not None:
            figures[metric.name] = sum(each[metric.name] for each in per_example) / len(outputs)
        else:
            pairs = zip(outputs, targets, strict=True)
            figures[metric.name] = sum(metric.example(*pair) for pair in pairs) / len(outputs)
    return figures


def signatures() -> dict[str, str]:
    """How each metric was computed, in a form that others can repeat."""
    scorer = CHRF()
    scorer.corpus_score(["a"], [["a"]])
    chrf = scorer.get_signature().format().removeprefix("nrefs:1|")
    return {
        "exact_match": "case:mixed|strip:yes|references:any",
        "chrf": f"chrF2|nrefs:var|{chrf}",
        "rouge_l": "rouge-score|rougeL|stemmer:porter|fmeasure|references:max",
    }


@cache
def _rouge_scorer() -> Any:
    # Late, because it loads nltk: more than a second that training need not wait for.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
