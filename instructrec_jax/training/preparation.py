"""What stands before the first step: dataset, tokenizer, token cache and packing plan."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from instructrec_jax.data.mixture import schedule_of, unknown_task
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.token_cache import TokenCache, open_token_cache
from instructrec_jax.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.building import build_from_config
from instructrec_jax.instructions.demonstrations import FewShot
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.reading import has_splits, read_examples, split_of

# Validation examples among which those to print are chosen.
_SAMPLE_POOL = 2_000
_FILE_SUFFIXES = (".json", ".jsonl", ".gz")


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run, ready to be drawn from."""

    tokenizer: Tokenizer
    training: PackingPlan
    training_cache: TokenCache
    validation: PackingPlan | None  # None: no validation example, or none that fits a row
    samples: tuple[InstructionExample, ...]

    def identity(self, config: ConfigDict) -> dict[str, Any]:
        """What decides the batches of a run; kept in every checkpoint."""
        return {
            # Holds all that follows, and how rows are planned, without a name for it.
            "plan": self.training.sha256,
            "dataset": self.training_cache.sha256,
            "train.batch_size": config.train.batch_size,
            "seed": config.seed,
            "data.encoder_length": config.data.encoder_length,
            "data.decoder_length": config.data.decoder_length,
            "data.open_bins": config.data.open_bins,
            "data.max_segments": config.data.max_segments,
            "data.mixture": config.data.mixture,
            "data.mixture_cap": config.data.mixture_cap,
            "data.mixture_temperature": config.data.mixture_temperature,
            "data.mixture_rates": config.data.mixture_rates.to_dict(),
            # As JSON gives it back: with lists for tuples.
            "data.mixture_schedule": [
                [first, dict(rates)] for first, rates in self.training.config.mixture_schedule
            ],
        }


def prepare_data(
    config: ConfigDict,
    *,
    may_build: bool,
    initial: Tokenizer | None,
    say: Callable[[str], None],
) -> RunData:
    """Builds what is missing and opens the rest; the first process of a run does the writing.

    Args:
      config: with the keys of configs/base.py.
      may_build: whether a dataset folder that does not exist is built by the config's recipe.
      initial: the tokenizer of the model that the run starts from, which it keeps.
      say: told of each stage.

    Raises:
      DataError: the dataset is missing, malformed or empty.
      ConfigError: the tokenizer cannot be used.
    """
    dataset = Path(config.dataset)
    with _main_process_first("dataset"):
        if _is_built(dataset, may_build):
            say(f"dataset {dataset} does not exist yet: it is built by the config's own recipe")
            build_from_config(config, dataset, say)
        _check_exists(dataset)
    with _main_process_first("tokenizer"):
        tokenizer = _prepare_tokenizer(config, dataset, initial, say)
    with _main_process_first("token cache"):
        training = _open_cache(config, dataset, "train", tokenizer, say)
        validation = _open_validation(config, dataset, tokenizer, say)
    plan = _training_plan(config, training)
    _check_same_on_all_hosts(plan)
    return RunData(
        tokenizer=tokenizer,
        training=plan,
        training_cache=training,
        validation=_validation_plan(config, validation) if validation is not None else None,
        samples=_choose_samples(config, dataset) if validation is not None else (),
    )


def check_dataset(config: ConfigDict, *, may_build: bool, whole: bool) -> None:
    """Raises what is wrong with the dataset, as far as no tokenizer is needed.

    Args:
      config: with the keys of configs/base.py.
      may_build: as for `prepare_data`.
      whole: read every line; else until each task that the mixture names is found.

    Raises:
      DataError: the dataset is missing or malformed.
      ConfigError: it lacks a task of the mixture.
    """
    dataset = Path(config.dataset)
    if _is_built(dataset, may_build):
        return
    _check_exists(dataset)
    asked = dict.fromkeys(config.data.mixture_rates, "data.mixture_rates")
    for first, rates in schedule_of(config.data.mixture_schedule):
        asked |= {task: f"data.mixture_schedule, epoch {first}" for task, _ in rates}
    found: dict[str, None] = {}
    if whole or asked:
        for example in _examples(config, dataset, "train"):
            found[example.task] = None
            if not whole and asked.keys() <= found.keys():
                return
    if whole:
        for _ in _examples(config, dataset, "validation"):
            pass
    missing = [unknown_task(task, found, key=asked[task]) for task in asked if task not in found]
    if missing:
        raise ConfigError("\n  ".join(["the mixture cannot be drawn:", *missing]))


def _is_built(dataset: Path, may_build: bool) -> bool:
    return may_build and not dataset.exists() and dataset.suffix not in _FILE_SUFFIXES


def _check_exists(dataset: Path) -> None:
    if not dataset.exists() and not has_magic(str(dataset)):
        raise DataError(
            f"dataset {dataset} does not exist; give a file of JSON lines, or make a folder "
            "with python -m instructrec_jax.build --config=... --output=DIR"
        )


def _training_plan(config: ConfigDict, cache: TokenCache) -> PackingPlan:
    return PackingPlan(
        cache,
        PlanConfig(
            encoder_length=config.data.encoder_length,
            decoder_length=config.data.decoder_length,
            batch_size=config.train.batch_size,
            seed=config.seed,
            open_bins=config.data.open_bins,
            max_segments=config.data.max_segments,
            mixture=config.data.mixture,
            mixture_cap=config.data.mixture_cap,
            mixture_temperature=config.data.mixture_temperature,
            mixture_rates=tuple(sorted(config.data.mixture_rates.items())),
            mixture_schedule=schedule_of(config.data.mixture_schedule),
            shuffle=True,
        ),
    )


def _validation_plan(config: ConfigDict, cache: TokenCache) -> PackingPlan:
    return PackingPlan(
        cache,
        PlanConfig(
            encoder_length=config.data.encoder_length,
            decoder_length=config.data.decoder_length,
            batch_size=config.train.batch_size,
            max_segments=config.data.max_segments,
            max_examples=config.evaluate.examples,
            shuffle=False,
        ),
    )


def _check_same_on_all_hosts(plan: PackingPlan) -> None:
    """Raises a ConfigError where the processes of a run have different data before them."""
    own = np.frombuffer(bytes.fromhex(plan.sha256), np.uint8)
    if jax.process_count() > 1 and (multihost_utils.process_allgather(own) != own).any():
        raise ConfigError(
            "the processes of this run see different datasets or tokenizers; give a --dataset and "
            "a --workdir on a disk that all of them share"
        )


@contextmanager
def _main_process_first(name: str) -> Iterator[None]:
    """The first process runs the block alone; then the others do and find its files."""
    if jax.process_count() == 1:
        yield
        return
    is_main = jax.process_index() == 0
    if not is_main:
        multihost_utils.sync_global_devices(name)
    try:
        yield
    finally:
        if is_main:
            multihost_utils.sync_global_devices(name)


def _prepare_tokenizer(
    config: ConfigDict, dataset: Path, initial: Tokenizer | None, say: Callable[[str], None]
) -> Tokenizer:
    """The initial model's, the config's, the dataset's, the run's, or a new one, in that order.

    A config that names another kind than the usual one goes before the dataset.
    """
    if initial is not None:
        return initial
    if config.tokenizer.path:
        return load_tokenizer(Path(config.tokenizer.path))
    own = Path(config.workdir) / "tokenizer"
    if config.tokenizer.kind == "bytes":
        tokenizer: Tokenizer = byte_tokenizer(config.tokenizer.sentinels)
        tokenizer.save(own)
        return tokenizer
    for folder in (dataset / "tokenizer", own):
        if folder.is_dir():
            return load_tokenizer(folder)
    if next(_examples(config, dataset, "train"), None) is None:
        raise DataError(
            f"{dataset} has no train example: all of them fell into the validation split; add "
            "examples or set --config.data.validation_fraction=0"
        )
    say(f"training a tokenizer on {dataset}")
    texts = (
        text
        for example in _examples(config, dataset, "train")
        for text in (encoder_text(example.instruction, example.input), example.target)
    )
    tokenizer = train_tokenizer(
        texts,
        vocabulary_size=config.tokenizer.vocabulary_size,
        sentinels=config.tokenizer.sentinels,
        seed=config.seed,
        progress=say,
    )
    tokenizer.save(own)
    return tokenizer


def _open_cache(
    config: ConfigDict,
    dataset: Path,
    split: str,
    tokenizer: Tokenizer,
    say: Callable[[str], None],
) -> TokenCache:
    if config.data.cache:
        folder = Path(config.data.cache)
    elif dataset.is_dir():
        folder = dataset / "token_cache"
    else:
        folder = Path(config.workdir) / "token_cache"
    return open_token_cache(
        dataset=dataset,
        split=split,
        tokenizer=tokenizer,
        encoder_length=config.data.encoder_length,
        decoder_length=config.data.decoder_length,
        over_length=config.data.over_length,
        parse_sentinels=config.data.parse_sentinels,
        validation_fraction=config.data.validation_fraction,
        seed=config.seed,
        folder=folder,
        few_shot=FewShot(config.data.demonstrations, config.data.most_demonstrations, config.seed),
        progress=say,
    )


def _open_validation(
    config: ConfigDict, dataset: Path, tokenizer: Tokenizer, say: Callable[[str], None]
) -> TokenCache | None:
    if next(_examples(config, dataset, "validation"), None) is None:
        say(f"{dataset} has no validation example: the run is not evaluated while it trains")
        return None
    try:
        return _open_cache(config, dataset, "validation", tokenizer, say)
    except DataError as error:
        if config.data.over_length == "error":
            raise
        # Every line was read before, so what is left is that no example fits a row.
        say(f"the run is not evaluated while it trains: {error}")
        return None


def _examples(config: ConfigDict, dataset: Path, split: str) -> Iterator[InstructionExample]:
    if dataset.is_dir():
        if any(dataset.glob(f"{split}-*")):
            yield from read_examples(dataset, split=split)
        return
    own_splits, fraction = has_splits(dataset), config.data.validation_fraction
    for example in read_examples(dataset):
        given = example.split if own_splits else ""
        if split == (given or split_of(example, validation_fraction=fraction, seed=config.seed)):
            yield example


def _choose_samples(config: ConfigDict, dataset: Path) -> tuple[InstructionExample, ...]:
    """Validation examples to decode and print: of as many tasks as there is room for."""
    pool = list(itertools.islice(_examples(config, dataset, "validation"), _SAMPLE_POOL))
    by_task: dict[str, list[InstructionExample]] = {}
    for example in pool:
        by_task.setdefault(example.task, []).append(example)
    rounds = itertools.zip_longest(*(by_task[task] for task in sorted(by_task)))
    in_turn = (example for examples in rounds for example in examples if example is not None)
    return tuple(itertools.islice(in_turn, config.evaluate.samples))
