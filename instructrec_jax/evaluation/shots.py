"""Solved questions in front of evaluated ones: none, those of the records, or K of the train split.

How many of them fit the model's input, instructions/few_shot.py says where there is a tokenizer.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.demonstrations import (
    LONGEST_DEMONSTRATION,
    answers_of,
    as_demonstration,
    different,
    material_of,
)
from instructrec_jax.instructions.example import InstructionExample

# Train examples of a task that demonstrations are chosen from.
_POOL = 1_024


def with_shots(
    examples: Sequence[InstructionExample],
    train_examples: Iterable[InstructionExample],
    *,
    shots: int,
    in_order: bool = False,
) -> list[InstructionExample]:
    """The examples with `shots` solved questions each, all of them zero-shot where that is 0.

    Records that bring demonstrations keep the first `shots` of their own. The others get train
    examples of their task: by a hash of both ids, or, `in_order`, the first ones as a benchmark's
    protocol has it. Never the question itself, nor one that asks the same or, but for closed
    choices and labels, answers the same.

    Raises:
        ConfigError: a task without train examples to choose from.
    """
    if shots == 0:
        return [replace(example, demonstrations=()) for example in examples]
    asking = {example.task for example in examples if not example.demonstrations}
    pools = _pools(train_examples, asking, in_order=in_order)
    answers = {
        task: answers_of((material_of(each), each.target) for _, each in pool)
        for task, pool in pools.items()
    }
    missing = sorted(asking - pools.keys())
    if missing:
        raise ConfigError(
            f"--shots={shots}: the data hold no train examples of the task {missing[0]!r} to show"
            f"{f', nor of {len(missing) - 1} others' if len(missing) > 1 else ''}"
        )
    return [
        replace(example, demonstrations=example.demonstrations[:shots])
        if example.demonstrations
        else _shown(example, pools[example.task], answers[example.task], shots, in_order=in_order)
        for example in examples
    ]


def _pools(
    examples: Iterable[InstructionExample], tasks: set[str], *, in_order: bool
) -> dict[str, list[tuple[str, InstructionExample]]]:
    """{task: (order, example)} of the first of each task, by number or by hash."""
    pools: dict[str, list[tuple[str, InstructionExample]]] = {}
    for number, example in enumerate(examples):
        if example.task not in tasks:
            continue
        length = len(material_of(example)) + len(example.target)
        if not in_order and length > LONGEST_DEMONSTRATION:
            continue
        order = f"{number:012}" if in_order else hashing.digest("pool", example.id)
        pool = pools.setdefault(example.task, [])
        bisect.insort(pool, (order, example), key=lambda item: item[0])
        del pool[_POOL:]
    return pools


def _shown(
    example: InstructionExample,
    pool: Sequence[tuple[str, InstructionExample]],
    answers: Mapping[str, set[str]],
    shots: int,
    *,
    in_order: bool,
) -> InstructionExample:
    others = [other for _, other in pool if other.id != example.id]
    if not in_order:
        others.sort(key=lambda other: hashing.digest("shot", example.id, other.id))
    shown = different(example, map(as_demonstration, others), shots, answers)
    return replace(example, demonstrations=shown)
