"""Floors: answers that need no model. A figure means something only beside them.

A floor is one function and one entry in `FLOORS`; the untrained model's answers are decoded.
"""

import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import InstructionExample

TRAIN_SPLIT = "train split"
EVALUATED_EXAMPLES = "evaluated examples"
# Answers of a task that `copy_demonstration` draws from.
_DRAWN = 32


@dataclass(frozen=True)
class FrequentTarget:
    """A task's most frequent target, how often it occurs and where it was counted.

    `drawn` are (id, target) of some examples there, by hash.
    """

    target: str
    count: int
    counted: int
    counted_on: str
    drawn: tuple[tuple[str, str], ...] = ()

    def to_record(self) -> dict[str, str | int]:
        """All but `drawn`, for metrics.json."""
        return {
            "target": self.target,
            "count": self.count,
            "counted": self.counted,
            "counted_on": self.counted_on,
        }


def most_frequent_targets(
    examples: Sequence[InstructionExample], train_examples: Iterable[InstructionExample]
) -> dict[str, FrequentTarget]:
    """Each evaluated task's most frequent target, {task: FrequentTarget}.

    Counted on `train_examples`. A task without any there (a held-out task, or a dataset without a
    train split) is counted on the evaluated `examples` themselves: that floor has seen the
    answers, so it is only ever too high. Of equally frequent targets the first in alphabetical
    order is taken.
    """
    tasks = {example.task for example in examples}
    trained = _counted(tasks, train_examples)
    evaluated = _counted(tasks, examples)
    frequent = {}
    for task in sorted(tasks):
        (counts, drawn), source = trained[task], TRAIN_SPLIT
        if not counts:
            (counts, drawn), source = evaluated[task], EVALUATED_EXAMPLES
        target, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        frequent[task] = FrequentTarget(
            target=target,
            count=count,
            counted=counts.total(),
            counted_on=source,
            drawn=tuple((name, target) for _, name, target in drawn),
        )
    return frequent


def _counted(
    tasks: Collection[str], examples: Iterable[InstructionExample]
) -> dict[str, tuple[Counter[str], list[tuple[str, str, str]]]]:
    """{task: targets counted, (hash, id, target) of those with the smallest hashes}."""
    found: dict[str, tuple[Counter[str], list[tuple[str, str, str]]]] = {
        task: (Counter(), []) for task in tasks
    }
    for example in examples:
        if example.task not in tasks:
            continue
        counts, drawn = found[example.task]
        counts[example.target] += 1
        bisect.insort(drawn, (hashing.digest("drawn", example.id), example.id, example.target))
        del drawn[_DRAWN:]
    return found


def copy_input(example: InstructionExample, frequent: Mapping[str, FrequentTarget]) -> str:
    """The material word for word."""
    return _material(example)


def copy_first_line(example: InstructionExample, frequent: Mapping[str, FrequentTarget]) -> str:
    """The first line of the material that is not blank."""
    material = _material(example)
    return next((line for line in material.splitlines() if line.strip()), material)


def most_frequent_target(
    example: InstructionExample, frequent: Mapping[str, FrequentTarget]
) -> str:
    """The task's most frequent target, whatever is asked."""
    return frequent[example.task].target


def copy_demonstration(example: InstructionExample, frequent: Mapping[str, FrequentTarget]) -> str:
    """The answer of the first solved question that is shown.

    Where none is, that of another example of the task, by hash, as if it had been shown.
    """
    if example.demonstrations:
        return example.demonstrations[0].target
    others = [target for name, target in frequent[example.task].drawn if name != example.id]
    if not others:
        return ""
    return others[int(hashing.fraction("demonstration", example.id) * len(others))]


def _material(example: InstructionExample) -> str:
    """What the instruction is about: the input, the part of the instruction that holds it, or all.

    A phrasing may carry the material inside; copying the words of the question as well would make
    that floor too low.
    """
    return example.input or example.material or example.instruction


@dataclass(frozen=True)
class Floor:
    """One floor: its name in metrics.json, its titles for people, and its answer.

    `answer` is None where it takes a model to know it.
    """

    name: str
    title: str
    short_title: str
    description: str
    answer: Callable[[InstructionExample, Mapping[str, FrequentTarget]], str] | None = None


FLOORS: tuple[Floor, ...] = (
    Floor(
        name="copy_input",
        title="copy the input",
        short_title="copy",
        description="Answers with the input word for word (where there is none, with the part of "
        "the instruction that it stands in, or all of it).",
        answer=copy_input,
    ),
    Floor(
        name="copy_first_line",
        title="copy the first line",
        short_title="1st line",
        description="Answers with the first line of the input that is not blank.",
        answer=copy_first_line,
    ),
    Floor(
        name="most_frequent_target",
        title="most frequent target",
        short_title="frequent",
        description="Answers with the task's most frequent training target, whatever is asked.",
        answer=most_frequent_target,
    ),
    Floor(
        name="copy_demonstration",
        title="copy a demonstration",
        short_title="shown",
        description="Answers with the target of the first solved question shown, or where none "
        "is, of another example of the task.",
        answer=copy_demonstration,
    ),
)
UNTRAINED = Floor(
    name="untrained",
    title="untrained model",
    short_title="untrained",
    description="The same architecture with its initial parameters.",
)


def floors_of(metrics: Mapping[str, Any]) -> tuple[Floor, ...]:
    """The floors that an evaluation (the contents of its metrics.json) has figures of."""
    group = next(iter(metrics["macro"].values()))
    return tuple(floor for floor in (*FLOORS, UNTRAINED) if floor.name in group["floors"])
