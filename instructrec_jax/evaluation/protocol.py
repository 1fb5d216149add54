"""The hold-out protocol: figures per task and per unseen thing, always beside the floors.

A test example probes one hold-out: a `document`, a `phrasing`, a `task` or a `composition` that
training never saw. Means over them would hide what generalises, so each has figures of its own.
Examples that name no hold-out (other people's files) stand under "all".

A model is above the floors where the paired bootstrap interval of its chrF minus that of the best
floor lies above 0. Fewer than `FEW` examples make such an interval too narrow: they count, and are
marked wherever they do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instructrec_jax.evaluation.floors import FLOORS, FrequentTarget
from instructrec_jax.evaluation.metrics import (
    PRIMARY_METRIC,
    acceptable_targets,
    example_metrics,
    group_metrics,
    signatures,
)
from instructrec_jax.evaluation.significance import chrf_difference
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.hashing import fraction

NO_HOLDOUT = "all"
# Below so many examples a win is marked.
FEW = 30
ABOVE, ABOVE_FEW, NOT_ABOVE = "above", "above (few)", "not above"
HOLDOUTS = ("document", "phrasing", "task", "composition", NO_HOLDOUT)


@dataclass(frozen=True)
class Answer:
    """What a model made of one example.

    `score` is the summed log-probability of its own output, `target_logprob` that of the target
    (natural logarithm, eos included) over `target_tokens` tokens; `stop_reason` is "eos" or
    "length"; `input_cut` says that the model did not see the end of the input,
    `demonstrations_left_out` how many solved questions of the example had no room.
    """

    output: str
    score: float
    stop_reason: str
    target_logprob: float
    target_tokens: int
    input_cut: bool = False
    demonstrations_left_out: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Figures as they stand in metrics.json, and one record an example for predictions.jsonl."""

    figures: dict[str, Any]
    predictions: list[dict[str, Any]]


def holdout_name(example: InstructionExample) -> str:
    """The hold-out that an example stands under."""
    return example.holdout or NO_HOLDOUT


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


def evaluate_answers(
    *,
    examples: Sequence[InstructionExample],
    answers: Sequence[Answer],
    frequent: Mapping[str, FrequentTarget],
) -> Evaluation:
    """Judge answers against the examples' targets and against the floors.

    `frequent` comes from `floors.most_frequent_targets`. Figures are fractions in [0, 1], losses
    natural-log NLL. Raises ValueError where there are no examples or not one answer for each.
    """
    if not examples or len(examples) != len(answers):
        raise ValueError(f"{len(examples)} examples and {len(answers)} answers")
    predictions = [
        prediction_record(example, answer)
        for example, answer in zip(examples, answers, strict=True)
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault((example.task, holdout_name(example)), []).append(index)
    tasks: dict[str, dict[str, Any]] = {}
    for task, holdout in sorted(groups, key=lambda key: (key[0], holdout_order(key[1]))):
        chosen = groups[task, holdout]
        tasks.setdefault(task, {})[holdout] = _group_figures(
            examples=[examples[i] for i in chosen],
            answers=[answers[i] for i in chosen],
            predictions=[predictions[i] for i in chosen],
            frequent=frequent,
        )
    figures = {
        "primary_metric": PRIMARY_METRIC,
        "metrics": signatures(),
        "tasks": tasks,
        "macro": _macro(tasks),
        "summary": _summary(tasks),
        "most_frequent_targets": {task: asdict(each) for task, each in frequent.items()},
    }
    return Evaluation(figures=figures, predictions=predictions)


def prediction_record(example: InstructionExample, answer: Answer) -> dict[str, Any]:
    """One line of predictions.jsonl."""
    targets = acceptable_targets(target=example.target, references=example.references)
    return {
        "id": example.id,
        "task": example.task,
        "holdout": holdout_name(example),
        "instruction": example.instruction,
        "input": example.input,
        "target": example.target,
        "references": list(example.references),
        "output": answer.output,
        "score": answer.score,
        "stop_reason": answer.stop_reason,
        "target_logprob": answer.target_logprob,
        "target_tokens": answer.target_tokens,
        "input_cut": answer.input_cut,
        **example_metrics(answer.output, targets),
    }


def _group_figures(
    *,
    examples: Sequence[InstructionExample],
    answers: Sequence[Answer],
    predictions: Sequence[dict[str, Any]],
    frequent: Mapping[str, FrequentTarget],
) -> dict[str, Any]:
    targets = [
        acceptable_targets(target=example.target, references=example.references)
        for example in examples
    ]
    nll = -sum(answer.target_logprob for answer in answers)
    tokens = sum(answer.target_tokens for answer in answers)
    model = {
        "loss_per_token": nll / tokens,
        "loss_per_sequence": nll / len(answers),
        **group_metrics([answer.output for answer in answers], targets, predictions),
    }
    floor_answers = {
        floor.name: [floor.answer(example, frequent) for example in examples] for floor in FLOORS
    }
    floors = {name: group_metrics(texts, targets) for name, texts in floor_answers.items()}
    best = max(floors, key=lambda name: floors[name][PRIMARY_METRIC])
    difference = chrf_difference(
        [answer.output for answer in answers], floor_answers[best], targets
    )
    above = difference.low > 0 and beats_floors(model, floors)
    return {
        "examples": len(examples),
        "model": model,
        "floors": floors,
        "primary_metric": PRIMARY_METRIC,
        "best_floor": best,
        "difference_to_best_floor": asdict(difference),
        "beats_floors": above,
        "verdict": (ABOVE_FEW if len(examples) < FEW else ABOVE) if above else NOT_ABOVE,
    }


def beats_floors(model: Mapping[str, float], floors: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the model's primary metric is above that of every floor; a tie is not above."""
    return all(model[PRIMARY_METRIC] > floor[PRIMARY_METRIC] for floor in floors.values())


def _macro(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Unweighted means over tasks, for each hold-out."""
    macro = {}
    for holdout in sorted(
        {name for groups in tasks.values() for name in groups}, key=holdout_order
    ):
        groups = [each[holdout] for each in tasks.values() if holdout in each]
        macro[holdout] = {
            "tasks": len(groups),
            "examples": sum(group["examples"] for group in groups),
            "model": _means([group["model"] for group in groups]),
            "floors": {
                floor.name: _means([group["floors"][floor.name] for group in groups])
                for floor in FLOORS
            },
            "tasks_beating_floors": sum(group["beats_floors"] for group in groups),
            "tasks_beating_floors_few": sum(group["verdict"] == ABOVE_FEW for group in groups),
        }
    return macro


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def _summary(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Counts; a task counts as beating the floors where it does so on each of its hold-outs.

    The counts that end in "_few" say how many of these rest on a group of few examples.
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
