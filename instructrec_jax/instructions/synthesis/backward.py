"""Examples turned round: what a synthesiser is trained on, and asked in the same words later.

Two directions, in the words of one text-to-text model:
- "instruction": task type, input and answer → the instruction (instruction backtranslation, Li et
  al. 2023, arXiv 2308.06259);
- "pair": task type and a text → an instruction about it and the answer (Bonito, Nayak et al. 2024,
  arXiv 2402.18334);
- "answer" is the ordinary example: with it one checkpoint is both synthesiser and judge.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.synthesis.traits import Pair, traits_of
from instructrec_jax.instructions.writing import json_line

DIRECTIONS = ("instruction", "pair", "answer")
# Between an instruction and its answer; written with pieces that T5's vocabulary has.
SEPARATOR = " ||| "
# Examples of a task that tell its type.
_TYPED_BY = 200


def instruction_prompt(task_type: str, text: str, target: str) -> tuple[str, str]:
    """(instruction, input) that asks a synthesiser for the instruction behind an answer."""
    asked = f"Write the instruction that has this answer. Task: {_name(task_type)}."
    return asked, f"Input: {text}\n\nAnswer: {target}" if text else f"Answer: {target}"


def pair_prompt(task_type: str, text: str) -> tuple[str, str]:
    """(instruction, input) that asks a synthesiser for an instruction about a text, and answer."""
    return f"Write an instruction about this text, and the answer. Task: {_name(task_type)}.", text


def parse_pair(output: str) -> tuple[str, str]:
    """The instruction and the answer of a synthesiser's output; both "" where it is no pair."""
    instruction, separator, answer = output.partition(SEPARATOR.strip())
    if not separator or SEPARATOR.strip() in answer:
        return "", ""
    return instruction.strip(), answer.strip()


def task_types(examples: Iterator[InstructionExample]) -> dict[str, str]:
    """The type of each task, by its first examples that carry their input apart."""
    pairs: dict[str, list[Pair]] = {}
    for example in examples:
        of_task = pairs.setdefault(example.task, [])
        if len(of_task) < _TYPED_BY:
            of_task.append(Pair(example.material or example.input, example.target))
    return {task: traits_of(of_task).task_type for task, of_task in pairs.items()}


def turned_round(
    examples: Iterator[InstructionExample],
    *,
    types: dict[str, str],
    directions: Sequence[str],
    skipped: Counter[str],
) -> Iterator[dict[str, Any]]:
    """The records of each example in each direction; `skipped` counts what has none, by reason."""
    for example in examples:
        for direction in directions:
            turned = (
                (example.instruction, example.input, example.target)
                if direction == "answer"
                else _turned(example, types[example.task], direction)
            )
            if isinstance(turned, str):
                skipped[turned] += 1
                continue
            instruction, text, target = turned
            record = {
                "id": f"{direction}-{example.id}",
                "task": example.task if direction == "answer" else f"synthesise_{direction}",
                "instruction": instruction,
                "input": text,
                "target": target,
                "split": example.split,
                "holdout": example.holdout,
                "template": example.template,
            }
            yield {key: value for key, value in record.items() if value or key == "input"}


def _turned(
    example: InstructionExample, task_type: str, direction: str
) -> tuple[str, str, str] | str:
    """(instruction, input, target) of the turned example, or why there is none."""
    if example.material:
        # It would teach to copy the material, which a document's instruction must not.
        return "material_inside_instruction"
    if not example.instruction:
        return "no_instruction"
    if direction == "instruction":
        prompt = instruction_prompt(task_type, example.input, example.target)
        return *prompt, example.instruction
    if not example.input:
        return "no_input"
    if SEPARATOR.strip() in example.instruction + example.target:
        return "holds_separator"
    pair = f"{example.instruction}{SEPARATOR}{example.target}"
    return *pair_prompt(task_type, example.input), pair


def write_turned_round(
    dataset: str,
    output: Path,
    *,
    directions: Sequence[str] = DIRECTIONS,
    progress: Callable[[str], None],
) -> int:
    """Write a file of JSON lines for `train`, in the splits of the dataset; the number of records.

    Raises:
        ConfigError: an unknown direction, or the output is there already.
        DataError: nothing to read, or no example can be turned round.
    """
    unknown = [name for name in directions if name not in DIRECTIONS]
    if unknown or not directions:
        raise ConfigError(
            f"directions {', '.join(map(repr, unknown)) or 'are missing'}; there are "
            f"{', '.join(DIRECTIONS)}"
        )
    if output.exists():
        raise ConfigError(f"{output} is there already; name another --output or remove it")
    types = task_types(read_examples(dataset))
    skipped: Counter[str] = Counter()
    written: Counter[str] = Counter()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        for record in turned_round(
            read_examples(dataset), types=types, directions=directions, skipped=skipped
        ):
            written[record["id"].partition("-")[0]] += 1
            file.write(json_line(record))
    if not written:
        partial.unlink()
        raise DataError(f"{dataset}: no example can be turned round: {_told(skipped)}")
    partial.rename(output)
    progress(f"task types: {', '.join(f'{task} = {kind}' for task, kind in types.items())}")
    progress(f"{output}: {_told(written)}" + (f"; left out: {_told(skipped)}" if skipped else ""))
    return written.total()


def _name(task_type: str) -> str:
    return task_type.replace("_", " ")


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
