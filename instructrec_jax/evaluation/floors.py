"""Floors: answers that need no model. A figure means something only beside them.

A floor is one function and one entry in `FLOORS`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from instructrec_jax.instructions.example import InstructionExample

TRAIN_SPLIT = "train split"
EVALUATED_EXAMPLES = "evaluated examples"


@dataclass(frozen=True)
class FrequentTarget:
    """A task's most frequent target, how often it occurs and where it was counted."""

    target: str
    count: int
    counted: int
    counted_on: str


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
    trained: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    for example in train_examples:
        if example.task in tasks:
            trained[example.task][example.target] += 1
    evaluated: dict[str, Counter[str]] = {task: Counter() for task in tasks}
    for example in examples:
        evaluated[example.task][example.target] += 1
    frequent = {}
    for task in sorted(tasks):
        counts, source = trained[task], TRAIN_SPLIT
        if not counts:
            counts, source = evaluated[task], EVALUATED_EXAMPLES
        target, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        frequent[task] = FrequentTarget(
            target=target, count=count, counted=counts.total(), counted_on=source
        )
    return frequent


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


def _material(example: InstructionExample) -> str:
    """What the instruction is about: the input, the part of the instruction that holds it, or all.

    A phrasing may carry the material inside; copying the words of the question as well would make
    that floor too low.
    """
    return example.input or example.material or example.instruction


@dataclass(frozen=True)
class Floor:
    """One floor: its name in metrics.json, its titles for people, and its answer."""

    name: str
    title: str
    short_title: str
    description: str
    answer: Callable[[InstructionExample, Mapping[str, FrequentTarget]], str]


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
)
