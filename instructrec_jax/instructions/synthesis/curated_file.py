"""A dataset that a model has looked through: what it objects to goes, each with its reason."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import TEST, VALIDATION, InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.rejects import masked_record
from instructrec_jax.instructions.synthesis.curation import CurationSettings, counted, curate
from instructrec_jax.instructions.synthesis.grammar import few_wrong_instructions
from instructrec_jax.instructions.synthesis.likelihood import Judge
from instructrec_jax.instructions.writing import json_line

# Instructions of a task that other tasks are told apart from, and of these for each example.
_MOST_INSTRUCTIONS, _FEW = 64, 4


def write_curated(
    dataset: str,
    output: Path,
    *,
    judge: Judge,
    settings: CurationSettings,
    progress: Callable[[str], None],
) -> Counter[str]:
    """Write what curation leaves of a dataset, a file for `train`; {reason: refused examples}.

    OUTPUT gets JSON lines, OUTPUT.rejected.jsonl the others with reason and measures, secrets and
    personal data masked as in a build's rejects. Validation and test examples are not judged:
    held-out data is not chosen by a model.

    Raises:
        ConfigError: thresholds that cannot be met, or files that are there already.
        DataError: nothing to read, or nothing left.
    """
    rejects = output.with_name(f"{output.name}.rejected.jsonl")
    for path in (output, rejects):
        if path.exists():
            raise ConfigError(f"{path} is there already; name another --output or remove it")
    wrong = other_tasks_instructions(_judged(dataset))
    verdicts = curate(_judged(dataset), judge, settings, wrong=wrong)
    refused = counted(verdicts)
    if len(verdicts) == refused.total():
        raise DataError(f"{dataset}: curation leaves no example: {_told(refused)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, partial_rejects = (
        path.with_name(f"{path.name}.partial") for path in (output, rejects)
    )
    with (
        open(partial, "w", encoding="utf-8", newline="\n") as kept,
        open(partial_rejects, "w", encoding="utf-8", newline="\n") as rejected,
    ):
        for place, example in enumerate(read_examples(dataset)):
            verdict = verdicts.get(str(place))
            if verdict is None or not verdict.reason:
                kept.write(json_line(example.to_record()))
            else:
                record = {"reason": verdict.reason, **asdict(verdict.measures)}
                shown = masked_record(example.to_record())
                rejected.write(json_line({**record, "record": shown}))
    partial.rename(output)
    partial_rejects.rename(rejects)
    progress(f"judge {judge.name}")
    left = len(verdicts) - refused.total()
    progress(f"{output}: {left:,} of {len(verdicts):,} examples for training are left")
    if refused:
        progress(f"{rejects}: {_told(refused)}")
    return refused


def other_tasks_instructions(
    examples: Iterator[InstructionExample],
) -> Callable[[InstructionExample], Sequence[str]]:
    """For each example some instructions of other tasks, by its hash; the grammar's for one task.

    The result is a function for `curation.measure`.
    """
    banks: dict[str, dict[str, None]] = {}
    for example in examples:
        bank = banks.setdefault(example.task, {})
        # What holds its material is about that material alone.
        if example.instruction and not example.material and len(bank) < _MOST_INSTRUCTIONS:
            bank[example.instruction] = None
    return lambda example: _of_others(example, banks) or few_wrong_instructions(example)


def _of_others(
    example: InstructionExample, banks: Mapping[str, Mapping[str, None]]
) -> tuple[str, ...]:
    others = [text for task, bank in banks.items() if task != example.task for text in bank]
    random = hashing.generator("wrong", example.instruction, example.input)
    return tuple(random.sample(others, min(_FEW, len(others))))


def _judged(dataset: str) -> Iterator[InstructionExample]:
    """The examples that a model may choose among, called by their places."""
    for place, example in enumerate(read_examples(dataset)):
        if example.split not in (VALIDATION, TEST):
            yield replace(example, id=str(place))


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
