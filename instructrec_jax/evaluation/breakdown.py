"""Where a model goes wrong: its confidence, the lengths, the kinds of error, the phrasings.

All from records of predictions.jsonl, so that report and notebook show the same figures.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instructrec_jax.evaluation.metrics import METRIC_BY_NAME, OF_SUMS
from instructrec_jax.evaluation.protocol import judged_of
from instructrec_jax.evaluation.significance import by_cluster, interval, resampled

BINS = 10
# Greatest number of groups of lengths.
_LENGTH_GROUPS = 6

Prediction = Mapping[str, Any]


def calibration(
    predictions: Sequence[Prediction], *, correct: str = "exact_match"
) -> dict[str, Any]:
    """How often answers are right that the model gave with a certain confidence.

    `confidence` is the probability of the whole answer (of the option, where it chose one);
    answers without are left out. Expected calibration error (Guo et al. 2017, "On Calibration of
    Modern Neural Networks"): mean distance of confidence and share of right answers over ten bins
    of equal width, by their sizes.

    Returns:
        `examples`, `ece` (None without examples), and `bins` with `low`, `high`, `examples`, and
        where there are any the means `confidence` and `correct`.
    """
    known = [
        (float(each["confidence"]), float(each[correct]))
        for each in predictions
        if each.get("confidence") is not None and correct in each
    ]
    bins = []
    error = 0.0
    for number in range(BINS):
        inside = [pair for pair in known if min(int(pair[0] * BINS), BINS - 1) == number]
        entry: dict[str, Any] = {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "examples": len(inside),
        }
        if inside:
            entry["confidence"], entry["correct"] = (
                statistics.fmean(column) for column in zip(*inside, strict=True)
            )
            error += len(inside) / len(known) * abs(entry["confidence"] - entry["correct"])
        bins.append(entry)
    return {
        "correct": correct,
        "examples": len(known),
        "ece": error if known else None,
        "bins": bins,
    }


# What may be long: title and length of a prediction.
LENGTHS: Mapping[str, tuple[str, Callable[[Prediction], int]]] = {
    "target_tokens": ("Target, in tokens", lambda each: each["target_tokens"]),
    "question_characters": (
        "Instruction and input, in characters",
        lambda each: len(each["instruction"]) + len(each["input"]),
    ),
}


def length_effects(predictions: Sequence[Prediction], *, metric: str) -> dict[str, Any]:
    """{kind of length: groups of about equal size with `low`, `high`, `examples`, mean, interval}.

    The mean is that of the examples' own figures of the metric.
    """
    return {
        name: _length_groups(
            [
                (length(each), each[metric], str(each.get("cluster", place)))
                for place, each in enumerate(predictions)
                if metric in each
            ]
        )
        for name, (_, length) in LENGTHS.items()
    }


def _length_groups(rows: Sequence[tuple[int, float, str]]) -> list[dict[str, Any]]:
    """Of rows (length, figure, cluster)."""
    if not rows:
        return []
    lengths = np.sort([length for length, *_ in rows])
    quantiles = [int(lengths[len(lengths) * n // _LENGTH_GROUPS]) for n in range(1, _LENGTH_GROUPS)]
    # A group begins at each: equal lengths stay together.
    starts = sorted({int(lengths[0]), *quantiles})
    groups = []
    for start, end in zip(starts, [*starts[1:], math.inf], strict=True):
        inside = [row for row in rows if start <= row[0] < end]
        counts = np.array([[figure, 1.0] for _, figure, _ in inside])
        units = by_cluster(counts, [cluster for *_, cluster in inside])
        groups.append(
            {
                "low": start,
                "high": max(length for length, *_ in inside),
                "examples": len(inside),
                "mean": float(counts[:, 0].mean()),
                "interval": list(interval(resampled(OF_SUMS["exact_match"], units))),
            }
        )
    return groups


@dataclass(frozen=True)
class ErrorKind:
    """A kind of wrong answer; a record belongs to the first kind whose test holds."""

    name: str
    title: str
    holds: Callable[[Prediction], bool]


def _repeats(text: str) -> bool:
    """Whether one word or a run of up to four makes up most of a long text."""
    words = text.split()
    return any(
        len(words) >= 6 * size
        and sum(words[i] == words[i + size] for i in range(len(words) - size))
        > 0.8 * (len(words) - size)
        for size in range(1, 5)
    )


ERROR_KINDS: tuple[ErrorKind, ...] = (
    ErrorKind("right", "right", lambda each: _is_right(each)),
    ErrorKind("empty", "empty", lambda each: not each["output"].strip()),
    ErrorKind("repeats", "repeats itself", lambda each: _repeats(each["output"])),
    ErrorKind("endless", "cut at the length limit", lambda each: each["stop_reason"] == "length"),
    ErrorKind(
        "no_option",
        "none of the options",
        lambda each: bool(each["options"]) and each["output"].strip() not in each["options"],
    ),
    ErrorKind("other_option", "another option", lambda each: bool(each["options"])),
    ErrorKind("fails", "code that fails", lambda each: each["passed"] is False),
    ErrorKind(
        "copies",
        "copies the input",
        lambda each: len(each["output"].strip()) > 3 and each["output"].strip() in each["input"],
    ),
    ErrorKind("near", "near: chrF from 80", lambda each: each["chrf"] >= 0.8),
    ErrorKind("partly", "partly: chrF from 40", lambda each: each["chrf"] >= 0.4),
    ErrorKind("far", "far off", lambda each: True),
)


def _is_right(each: Prediction) -> bool:
    if each["passed"] is not None:
        return bool(each["passed"])
    return bool(each["exact_match"])


def error_kind(prediction: Prediction) -> str:
    """The name of the first kind that holds."""
    return next(kind.name for kind in ERROR_KINDS if kind.holds(prediction))


def errors_by_task(predictions: Sequence[Prediction]) -> dict[str, dict[str, int]]:
    """{task: {kind of error: number of answers}}; kinds that do not occur are left out."""
    found: dict[str, dict[str, int]] = {}
    for prediction in predictions:
        of_task = found.setdefault(prediction["task"], {})
        kind = error_kind(prediction)
        of_task[kind] = of_task.get(kind, 0) + 1
    return {task: found[task] for task in sorted(found)}


def choice_accuracy(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """{task: {"sum", "mean", "calibrated": share of right options by that log-probability}}.

    A sum favours short options, a mean long ones: where they part, the figure hangs on the choice.
    Of answers that were chosen among options.
    """
    found: dict[str, list[Prediction]] = {}
    for each in predictions:
        if each.get("option_logprobs"):
            found.setdefault(each["task"], []).append(each)
    return {
        task: {
            by: statistics.fmean(_is_best(each, each["option_logprobs"][by]) for each in own)
            for by in own[0]["option_logprobs"]
        }
        for task, own in sorted(found.items())
    }


def _is_best(prediction: Prediction, numbers: Sequence[float]) -> bool:
    best = max(range(len(numbers)), key=numbers.__getitem__)
    return prediction["options"][best] in (prediction["target"], *prediction["references"])


def prompt_spread(predictions: Sequence[Prediction], *, metric: str) -> dict[str, Any]:
    """Figures of each prompt of a task, and how they spread over the prompts.

    Returns:
        {task: `prompts` {template: figure}, `median`, `lower_quartile`, `upper_quartile`,
        `lowest`, `highest`}, of tasks whose records name at least two templates.
    """
    entry = METRIC_BY_NAME[metric]
    groups: dict[str, dict[str, list[Prediction]]] = {}
    for prediction in predictions:
        of_task = groups.setdefault(prediction["task"], {})
        of_task.setdefault(prediction["template"], []).append(prediction)
    spread = {}
    for task in sorted(groups):
        if len(groups[task]) < 2:
            continue
        figures = {}
        for template, own in sorted(groups[task].items()):
            counts = entry.statistics([judged_of(each) for each in own])
            if counts is not None:
                figures[template] = float(entry.of_sums(counts.sum(axis=0)))
        lowest, lower, median, upper, highest = np.quantile(
            list(figures.values()), [0, 0.25, 0.5, 0.75, 1]
        )
        spread[task] = {
            "prompts": figures,
            "median": float(median),
            "lower_quartile": float(lower),
            "upper_quartile": float(upper),
            "lowest": float(lowest),
            "highest": float(highest),
        }
    return spread
