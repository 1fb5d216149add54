"""Which answers a person pages through in the report, and what differs from the target there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from instructrec_jax.evaluation.metrics import (
    METRIC_BY_NAME,
    Judged,
    acceptable_targets,
    sentence_chrf,
)
from instructrec_jax.instructions.hashing import fraction

# On the page altogether; the rest is in predictions.jsonl.
MAX_SAMPLES = 400
MIN_SAMPLES_PER_GROUP = 6
# Of answers decoded in training; ROUGE-L's library takes a second to load.
_SAMPLE_METRICS = ("exact_match", "token_f1", "chrf")
# Longer texts are cut, and say so.
MAX_CHARACTERS = 3_000


@dataclass(frozen=True)
class Text:
    """A text as shown: pieces (text, differs from the target) and how much was left out."""

    pieces: tuple[tuple[str, bool], ...]
    left_out: int


@dataclass(frozen=True)
class Sample:
    """One answer on the page; `order` is its place when shuffled, `score` its log-probability."""

    id: str
    task: str
    holdout: str
    instruction: Text
    input: Text
    target: Text
    output: Text
    chrf: float
    exact: bool
    stopped_by_length: bool
    order: float
    score: float | None = None


def choose_samples(predictions: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """The worst, the best and some others of each task and hold-out, worst first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for prediction in predictions:
        groups.setdefault((prediction["task"], prediction["holdout"]), []).append(prediction)
    quota = max(MIN_SAMPLES_PER_GROUP, MAX_SAMPLES // max(len(groups), 1))
    chosen = [each for group in groups.values() for each in _choose(group, quota)]
    samples = [_sample(prediction) for prediction in chosen]
    return sorted(samples, key=lambda sample: (sample.chrf, sample.order))


def from_training(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a run's samples.jsonl, newest step of each id, as prediction records."""
    newest = {record["id"]: record for record in records}
    return [
        {
            "holdout": f"step {record['step']}",
            "stop_reason": "",
            **record,
            "chrf": sentence_chrf(
                record["output"], acceptable_targets(target=record["target"], references=())
            ),
            "exact_match": float(record["output"].strip() == record["target"].strip()),
        }
        for record in newest.values()
    ]


def sample_figures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Figures of a few answers decoded in training, means over tasks; {} for none.

    The same metrics as those of an evaluation: {"sample_exact_match", "sample_chrf", ...}. So few
    examples tell a trend, not a result.
    """
    tasks: dict[str, list[Judged]] = {}
    for record in records:
        judged = Judged(record["output"], (record["target"],))
        tasks.setdefault(record["task"], []).append(judged)
    figures: dict[str, float] = {}
    for name in _SAMPLE_METRICS:
        metric = METRIC_BY_NAME[name]
        counts = [metric.statistics(each) for each in tasks.values()]
        known = [float(metric.of_sums(each.sum(axis=0))) for each in counts if each is not None]
        if known:
            figures[f"sample_{name}"] = sum(known) / len(known)
    return figures


def learning_journeys(
    records: Sequence[Mapping[str, Any]], *, examples: int = 3, steps: int = 6
) -> list[dict[str, Any]]:
    """How the answer to an example changed over training: those decoded most often.

    At most `steps` stations, evenly over the run, the first and last among them.
    """
    answers: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        answers.setdefault(record["id"], {})[record["step"]] = record
    often = sorted(answers, key=lambda name: -len(answers[name]))[:examples]
    journeys = []
    for name in often:
        stations = [answers[name][step] for step in sorted(answers[name])]
        if len(stations) < 2:
            continue
        last = len(stations) - 1
        shown = sorted({round(i * last / (steps - 1)) for i in range(steps)})
        journeys.append(
            {
                "task": stations[-1]["task"],
                "instruction": cut(stations[-1]["instruction"]),
                "input": cut(stations[-1]["input"]),
                "target": cut(stations[-1]["target"]),
                "stations": [
                    {
                        "step": stations[i]["step"],
                        "output": differing(stations[i]["output"], stations[i]["target"]),
                        "chrf": sentence_chrf(stations[i]["output"], [stations[i]["target"]]),
                    }
                    for i in shown
                ],
            }
        )
    return journeys


def cut(text: str) -> Text:
    """The text's beginning, and the number of characters left out."""
    return Text(((text[:MAX_CHARACTERS], False),), max(len(text) - MAX_CHARACTERS, 0))


def differing(output: str, target: str) -> Text:
    """The output in pieces: words (characters in scripts without spaces) not in the target."""
    shown = cut(output)
    ours, theirs = _words(shown.pieces[0][0]), _words(target[:MAX_CHARACTERS])
    pieces: list[tuple[str, bool]] = []
    at = 0
    for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        if block.a > at:
            pieces.append(("".join(ours[at : block.a]), True))
        if block.size:
            pieces.append(("".join(ours[block.a : block.a + block.size]), False))
        at = block.a + block.size
    return Text(tuple(pieces), shown.left_out)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-zA-Z0-9_\u00c0-\u024f]+|\s+|.", text, flags=re.DOTALL)


def _choose(group: Sequence[Mapping[str, Any]], quota: int) -> list[Mapping[str, Any]]:
    """A third worst, a third best, the rest by hash of the id."""
    if len(group) <= quota:
        return list(group)
    ordered = sorted(group, key=lambda each: (each["chrf"], fraction("sample", each["id"])))
    third = quota // 3
    middle = sorted(
        ordered[third : len(ordered) - third], key=lambda each: fraction("sample", each["id"])
    )
    return [*ordered[:third], *middle[: quota - 2 * third], *ordered[len(ordered) - third :]]


def _sample(prediction: Mapping[str, Any]) -> Sample:
    return Sample(
        id=prediction["id"],
        task=prediction["task"],
        holdout=prediction["holdout"],
        instruction=cut(prediction["instruction"]),
        input=cut(prediction["input"]),
        target=cut(prediction["target"]),
        output=differing(prediction["output"], prediction["target"]),
        chrf=prediction["chrf"],
        exact=bool(prediction["exact_match"]),
        stopped_by_length=prediction.get("stop_reason") == "length",
        order=fraction("order", prediction["id"]),
        score=prediction.get("score"),
    )
