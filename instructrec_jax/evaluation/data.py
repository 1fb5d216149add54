"""Which examples are evaluated, and which ones the most frequent target is counted on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.evaluation.code_checks import Check
from instructrec_jax.evaluation.run_log import RunLog
from instructrec_jax.instructions.example import TEST, TRAIN, VALIDATION, InstructionExample
from instructrec_jax.instructions.reading import has_splits, read_examples, split_of


@dataclass(frozen=True)
class EvaluationData:
    """The examples of one split, and a way to read the training examples, which may be none.

    `split` is "" where a whole file is evaluated; `note` says, where it needs saying, why these
    examples were taken; `checks` are a benchmark's tests of code, by example id.
    """

    examples: list[InstructionExample]
    train_examples: Callable[[], Iterator[InstructionExample]]
    split: str
    note: str = ""
    checks: Mapping[str, Check] = field(default_factory=dict)


def open_evaluation_data(dataset: Path, *, split: str | None, run: RunLog | None) -> EvaluationData:
    """Read the split to evaluate: `split`, or where that is None the one that training never saw.

    That is the test split of data with splits. A file without splits that `run` was trained on
    was divided in two by hash then, and its validation part is taken; any other file is taken
    whole.

    Raises:
        DataError: nothing to read, a bad record, or no example in the split.
        ConfigError: `split` of a file that has none and that `run` was not trained on.
    """
    if has_splits(dataset):
        return _of_split(dataset, split=split or TEST, part=lambda example: example.split)
    divided = _division(dataset, run)
    if divided is None:
        if split:
            raise ConfigError(
                f"{dataset} has no splits: leave --split={split} out to evaluate all of it"
            )
        return EvaluationData(
            examples=list(read_examples(dataset)), train_examples=lambda: iter(()), split=""
        )
    data = _of_split(dataset, split=split or VALIDATION, part=divided)
    if split:
        return data
    return replace(data, note="the run was trained on the rest of this file")


def _division(dataset: Path, run: RunLog | None) -> Callable[[InstructionExample], str] | None:
    """How `run` divided this file into train and validation; None where it is another file."""
    if run is None or not _is_same_file(dataset, str(run.config.get("dataset", ""))):
        return None
    fraction, seed = run.config.get("data.validation_fraction"), run.config.get("seed")
    if not isinstance(fraction, int | float) or not isinstance(seed, int):
        return None
    return lambda example: split_of(example, validation_fraction=fraction, seed=seed)


def _is_same_file(dataset: Path, trained_on: str) -> bool:
    if not trained_on:
        return False
    if dataset.resolve() == Path(trained_on).resolve():
        return True
    # The run may have been started from another folder; then the name has to do.
    return not Path(trained_on).exists() and Path(trained_on).name == dataset.name


def _of_split(
    dataset: Path, *, split: str, part: Callable[[InstructionExample], str]
) -> EvaluationData:
    examples = []
    found: dict[str, int] = {}
    for example in read_examples(dataset):
        name = part(example)
        found[name] = found.get(name, 0) + 1
        if name == split:
            examples.append(example)
    if not examples:
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
        raise DataError(
            f"{dataset}: no example in the split {split!r}; there are: {counts}. "
            "Name one of them with --split"
        )

    def train_examples() -> Iterator[InstructionExample]:
        return (example for example in read_examples(dataset) if part(example) == TRAIN)

    return EvaluationData(examples=examples, train_examples=train_examples, split=split)
