"""The hold-out protocol: figures per task and per unseen thing, always beside the floors.

A test example probes one hold-out: a `document`, a `phrasing`, a `task` or a `composition` that
training never saw. Means over them would hide what generalises, so each has figures of its own.
Examples that name no hold-out (other people's files) stand under "all".

Every figure has a bootstrap interval. A model is above the floors where the paired interval of its
primary metric (chrF, unless a benchmark names another) minus that of the best floor lies above 0.
Examples of one document or question are drawn together
(`cluster_of`). Fewer than `FEW` documents make such an interval too narrow: they count, and are
marked wherever they do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instructrec_jax.evaluation.floors import FLOORS, UNTRAINED, FrequentTarget
from instructrec_jax.evaluation.metrics import (
    LOSSES,
    PRIMARY_METRIC,
    Judged,
    acceptable_targets,
    example_metrics,
    group_metrics,
    signatures,
    statistics_of,
)
from instructrec_jax.evaluation.significance import (
    by_cluster,
    cluster_keys,
    intervals,
    mean_intervals,
    paired_difference,
)
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.hashing import fraction

NO_HOLDOUT = "all"
# Below so many clusters of examples a win is marked.
FEW = 30
ABOVE, ABOVE_FEW, NOT_ABOVE = "above", "above (few)", "not above"
HOLDOUTS = ("document", "phrasing", "task", "composition", NO_HOLDOUT)


@dataclass(frozen=True)
class Answer:
    """What a model made of one example.

    `score` is the summed log-probability of its own output, `target_logprob` that of the target
    (natural logarithm, eos included) over `target_tokens` tokens; `stop_reason` is "eos" or
    "length", or "choice" where it was chosen among options; `input_cut` says that the model did
    not see the end of the input, `demonstrations_left_out` how many solved questions of the example
    had no room. `confidence` is the probability that the model gave its answer, among the options
    where it chose, whose log-probabilities `option_logprobs` then holds.
    """

    output: str
    score: float
    stop_reason: str
    target_logprob: float
    target_tokens: int
    input_cut: bool = False
    demonstrations_left_out: int = 0
    confidence: float | None = None
    option_logprobs: Mapping[str, Sequence[float]] | None = None


# From examples and outputs to whether each one's code passes; None where there is nothing to run.
Passes = Callable[[Sequence[InstructionExample], Sequence[str]], Sequence[bool | None]]


@dataclass(frozen=True)
class Evaluation:
    """Figures as they stand in metrics.json, and one record an example for predictions.jsonl."""

    figures: dict[str, Any]
    predictions: list[dict[str, Any]]


def holdout_name(example: InstructionExample) -> str:
    """The hold-out that an example stands under."""
    return example.holdout or NO_HOLDOUT


def cluster_of(example: InstructionExample) -> str:
    """What examples are right and wrong together with: their document, or their question.

    The document's hash where the example names one; else the id, of which `/` and the phrasing's
    name at the end are no part: `q1/a` and `q1/b` ask one question with two prompts.
    """
    if example.provenance is not None:
        return example.provenance.sha256
    return example.id.removesuffix(f"/{example.template}") if example.template else example.id


def holdout_order(name: str) -> tuple[int, str]:
    """Sort key: the protocol's order, then unknown names by alphabet, "all" last."""
    if name == NO_HOLDOUT:
        return len(HOLDOUTS), ""
    return (HOLDOUTS.index(name), "") if name in HOLDOUTS else (len(HOLDOUTS) - 1, name)


def choose_examples(
    examples: Sequence[InstructionExample], *, max_examples_per_task: int
) -> list[InstructionExample]:
    """At most so many examples for each task and hold-out (0 = all), in their order.

    Chosen by hash of the id, not from the front, because files are often sorted by document.
    """
    if not max_examples_per_task:
        return list(examples)
    groups: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault((example.task, holdout_name(example)), []).append(index)
    kept: list[int] = []
    for indices in groups.values():
        indices.sort(key=lambda index: (fraction("evaluate", examples[index].id), index))
        kept.extend(indices[:max_examples_per_task])
    return [examples[index] for index in sorted(kept)]


def first_examples(
    examples: Sequence[InstructionExample], *, count: int
) -> list[InstructionExample]:
    """The first `count` examples of each task, in their order."""
    seen: dict[str, int] = {}
    kept = []
    for example in examples:
        seen[example.task] = seen.get(example.task, 0) + 1
        if seen[example.task] <= count:
            kept.append(example)
    return kept


def nothing_to_run(
    examples: Sequence[InstructionExample], outputs: Sequence[str]
) -> list[bool | None]:
    """No example has code to run."""
    return [None] * len(outputs)


def evaluate_answers(
    *,
    examples: Sequence[InstructionExample],
    answers: Sequence[Answer],
    frequent: Mapping[str, FrequentTarget],
    untrained: Sequence[str] | None = None,
    passes: Passes = nothing_to_run,
    primary: str = PRIMARY_METRIC,
) -> Evaluation:
    """Judge answers against the examples' targets and against the floors.

    Figures are fractions in [0, 1], losses natural-log NLL. `passes` runs code under guard.
    Raises ValueError where there are no examples or not one answer for each.

    Args:
        examples, answers: one answer for each example.
        frequent: from `floors.most_frequent_targets`.
        untrained: outputs of the untrained model, for its floor.
        primary: metric that decides; chrF where a group has no figure of it.
    """
    if not examples or len(examples) != len(answers):
        raise ValueError(f"{len(examples)} examples and {len(answers)} answers")
    outputs = {"model": [answer.output for answer in answers], **_floors(examples, frequent)}
    if untrained is not None:
        outputs[UNTRAINED.name] = list(untrained)
    judged = {name: _judged(examples, texts, passes) for name, texts in outputs.items()}
    groups = _groups(examples)
    predictions: list[dict[str, Any]] = [{}] * len(examples)
    statistics: dict[tuple[str, str], GroupStatistics] = {}
    drawn_by: dict[tuple[str, str], np.ndarray] = {}
    for key, chosen in groups.items():
        systems = {name: statistics_of([each[i] for i in chosen]) for name, each in judged.items()}
        model = {**_loss_statistics([answers[i] for i in chosen]), **systems["model"]}
        for index, row in zip(chosen, example_metrics(model), strict=True):
            predictions[index] = prediction_record(
                examples[index], answers[index], judged["model"][index].passed, row
            )
        clusters = [cluster_of(examples[i]) for i in chosen]
        drawn_by[key] = cluster_keys(clusters)
        statistics[key] = {
            name: {figure: by_cluster(counts, clusters) for figure, counts in each.items()}
            for name, each in {**systems, "model": model}.items()
        }
    if not all(primary in systems["model"] for systems in statistics.values()):
        primary = PRIMARY_METRIC
    tasks: dict[str, dict[str, Any]] = {}
    for (task, holdout), systems in statistics.items():
        tasks.setdefault(task, {})[holdout] = {
            "examples": len(groups[task, holdout]),
            **_group_figures(systems, drawn_by[task, holdout], primary=primary),
        }
    figures = {
        "primary_metric": primary,
        "metrics": signatures(),
        "tasks": tasks,
        "macro": _macro(tasks, statistics, drawn_by),
        "summary": _summary(tasks),
        "most_frequent_targets": {task: each.to_record() for task, each in frequent.items()},
    }
    return Evaluation(figures=figures, predictions=predictions)


# {"model" or floor: {figure: float64 [clusters, counts]}}
GroupStatistics = dict[str, dict[str, np.ndarray]]


def _groups(examples: Sequence[InstructionExample]) -> dict[tuple[str, str], list[int]]:
    """Places of the examples of each task and hold-out, in the protocol's order."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault((example.task, holdout_name(example)), []).append(index)
    return dict(sorted(groups.items(), key=lambda group: (group[0][0], holdout_order(group[0][1]))))


def _floors(
    examples: Sequence[InstructionExample], frequent: Mapping[str, FrequentTarget]
) -> dict[str, list[str]]:
    return {
        floor.name: [floor.answer(example, frequent) for example in examples]
        for floor in FLOORS
        if floor.answer is not None
    }


def _judged(
    examples: Sequence[InstructionExample], outputs: Sequence[str], passes: Passes
) -> list[Judged]:
    return [
        Judged(
            output=output,
            targets=acceptable_targets(target=example.target, references=example.references),
            options=example.options,
            passed=passed,
        )
        for example, output, passed in zip(
            examples, outputs, passes(examples, outputs), strict=True
        )
    ]


def _loss_statistics(answers: Sequence[Answer]) -> dict[str, np.ndarray]:
    nll = [-answer.target_logprob for answer in answers]
    counts = ([answer.target_tokens for answer in answers], [1] * len(answers))
    return {
        name: np.array([nll, each], np.float64).T for name, each in zip(LOSSES, counts, strict=True)
    }


def prediction_record(
    example: InstructionExample,
    answer: Answer,
    passed: bool | None,
    figures: Mapping[str, float],
) -> dict[str, Any]:
    """One line of predictions.jsonl; `figures` are the metrics of the answer."""
    return {
        "id": example.id,
        "task": example.task,
        "holdout": holdout_name(example),
        "cluster": cluster_of(example),
        "template": example.template,
        "instruction": example.instruction,
        "input": example.input,
        "target": example.target,
        "references": list(example.references),
        "options": list(example.options),
        "output": answer.output,
        "score": answer.score,
        "confidence": answer.confidence,
        "option_logprobs": answer.option_logprobs,
        "stop_reason": answer.stop_reason,
        "target_logprob": answer.target_logprob,
        "target_tokens": answer.target_tokens,
        "input_cut": answer.input_cut,
        "passed": passed,
        **figures,
    }


def judged_of(prediction: Mapping[str, Any]) -> Judged:
    """What a line of predictions.jsonl is judged by."""
    return Judged(
        output=prediction["output"],
        targets=acceptable_targets(
            target=prediction["target"], references=prediction["references"]
        ),
        options=tuple(prediction.get("options", ())),
        passed=prediction.get("passed"),
    )


def _group_figures(systems: GroupStatistics, keys: np.ndarray, *, primary: str) -> dict[str, Any]:
    statistics = systems["model"]
    clusters = len(statistics[primary])
    model = group_metrics(statistics)
    floors = {name: group_metrics(each) for name, each in systems.items() if name != "model"}
    differences = {
        name: paired_difference(primary, statistics[primary], systems[name][primary], keys=keys)
        for name in floors
    }
    # The floor that is hardest to be told from: above it means above each of them.
    best = min(differences, key=lambda name: differences[name].low)
    difference = differences[best]
    above = difference.low > 0 and beats_floors(model, floors, primary=primary)
    return {
        "clusters": clusters,
        "model": model,
        "intervals": intervals(statistics, keys=keys),
        "floors": floors,
        "floor_intervals": {name: intervals(systems[name], keys=keys) for name in floors},
        "primary_metric": primary,
        "best_floor": best,
        "difference_to_best_floor": asdict(difference),
        "beats_floors": above,
        "verdict": (ABOVE_FEW if clusters < FEW else ABOVE) if above else NOT_ABOVE,
    }


def beats_floors(
    model: Mapping[str, float],
    floors: Mapping[str, Mapping[str, float]],
    *,
    primary: str = PRIMARY_METRIC,
) -> bool:
    """Whether the model's primary metric is above that of every floor; a tie is not above."""
    return all(model[primary] > floor[primary] for floor in floors.values())


def _macro(
    tasks: Mapping[str, Mapping[str, Any]],
    statistics: Mapping[tuple[str, str], GroupStatistics],
    drawn_by: Mapping[tuple[str, str], np.ndarray],
) -> dict[str, Any]:
    """Unweighted means over tasks, for each hold-out; of a metric, over the tasks that have it."""
    macro = {}
    for holdout in sorted(
        {name for groups in tasks.values() for name in groups}, key=holdout_order
    ):
        groups = [each[holdout] for each in tasks.values() if holdout in each]
        counts = [systems for (_, name), systems in statistics.items() if name == holdout]
        keys = [each for (_, name), each in drawn_by.items() if name == holdout]
        floors = groups[0]["floors"]
        macro[holdout] = {
            "tasks": len(groups),
            "examples": sum(group["examples"] for group in groups),
            "model": _means([group["model"] for group in groups]),
            "intervals": mean_intervals([systems["model"] for systems in counts], keys),
            "floors": {
                name: _means([group["floors"][name] for group in groups]) for name in floors
            },
            "floor_intervals": {
                name: mean_intervals([systems[name] for systems in counts], keys) for name in floors
            },
            "tasks_beating_floors": sum(group["beats_floors"] for group in groups),
            "tasks_beating_floors_few": sum(group["verdict"] == ABOVE_FEW for group in groups),
        }
    return macro


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _summary(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Counts; a task counts as beating the floors where it does so on each of its hold-outs.

    The counts that end in "_few" say how many of these rest on a group of few clusters.
    """
    groups = [group for each in tasks.values() for group in each.values()]
    beating = [
        {group["verdict"] for group in each.values()}
        for each in tasks.values()
        if all(group["beats_floors"] for group in each.values())
    ]
    return {
        "tasks_beating_floors": len(beating),
        "tasks_beating_floors_few": sum(ABOVE_FEW in verdicts for verdicts in beating),
        "tasks": len(tasks),
        "groups_beating_floors": sum(group["beats_floors"] for group in groups),
        "groups_beating_floors_few": sum(group["verdict"] == ABOVE_FEW for group in groups),
        "groups": len(groups),
        "examples": sum(group["examples"] for group in groups),
    }
