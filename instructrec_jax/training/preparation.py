"""What stands before the first step: dataset, tokenizer, token cache and packing plan."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from instructrec_jax.build import build_from_config
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.token_cache import TokenCache, open_token_cache
from instructrec_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from instructrec_jax.errors import DataError
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.reading import has_splits, read_examples, split_of
from instructrec_jax.training.checkpoint import LoadedModel

# Validation examples among which those to print are chosen.
_SAMPLE_POOL = 2_000


@dataclasses.dataclass(frozen=True)
class RunData:
    """The data of a run, ready to be drawn from."""

    tokenizer: Tokenizer
    training: PackingPlan
    training_cache: TokenCache
    validation: PackingPlan | None  # None: the dataset has no validation example
    samples: tuple[InstructionExample, ...]

    def identity(self, config: ConfigDict) -> dict[str, Any]:
        """What must stay the same for a run to go on exactly; kept in every checkpoint."""
        return {
            "plan": self.training.sha256,
            "dataset": self.training_cache.sha256,
            "batch_size": config.train.batch_size,
            "seed": config.seed,
            "mixture": config.data.mixture,
        }


def prepare_data(
    config: ConfigDict,
    *,
    may_build: bool,
    initial: LoadedModel | None,
    say: Callable[[str], None],
) -> RunData:
    """Builds what is missing and opens the rest; the first process of a run does the writing.

    Args:
      config: with the keys of configs/base.py.
      may_build: whether a dataset folder that does not exist is built by the config's recipe.
      initial: the model that the run starts from, whose tokenizer it keeps.
      say: told of each stage.

    Raises:
      DataError: the dataset is missing, malformed or empty.
      ConfigError: the tokenizer cannot be used.
    """
    dataset = Path(config.dataset)
    with _main_process_first("dataset"):
        if may_build and not dataset.exists() and not dataset.suffix:
            say(f"dataset {dataset} does not exist yet: it is built by the config's own recipe")
            build_from_config(config, dataset, say)
        if not dataset.exists() and not has_magic(str(dataset)):
            raise DataError(
                f"dataset {dataset} does not exist; give a file of JSON lines, or make a folder "
                "with python -m instructrec_jax.build --config=... --output=DIR"
            )
    with _main_process_first("tokenizer"):
        tokenizer = _prepare_tokenizer(config, dataset, initial, say)
    with _main_process_first("token cache"):
        training = _open_cache(config, dataset, "train", tokenizer, say)
        validation = _open_validation(config, dataset, tokenizer, say)
    plan_config = PlanConfig(
        encoder_length=config.data.encoder_length,
        decoder_length=config.data.decoder_length,
        batch_size=config.train.batch_size,
        seed=config.seed,
        open_bins=config.data.open_bins,
        mixture=config.data.mixture,
        mixture_cap=config.data.mixture_cap,
        mixture_temperature=config.data.mixture_temperature,
        mixture_rates=tuple(sorted(config.data.mixture_rates.items())),
        shuffle=True,
    )
    evaluation_config = PlanConfig(
        encoder_length=config.data.encoder_length,
        decoder_length=config.data.decoder_length,
        batch_size=config.train.batch_size,
        max_examples=config.evaluate.examples,
        shuffle=False,
    )
    return RunData(
        tokenizer=tokenizer,
        training=PackingPlan(training, plan_config),
        training_cache=training,
        validation=PackingPlan(validation, evaluation_config) if validation is not None else None,
        samples=_choose_samples(config, dataset) if validation is not None else (),
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
    config: ConfigDict, dataset: Path, initial: LoadedModel | None, say: Callable[[str], None]
) -> Tokenizer:
    """The initial model's, the config's, the dataset's, the run's, or a new one, in that order."""
    if initial is not None:
        return initial.tokenizer
    if config.tokenizer.path:
        return load_tokenizer(Path(config.tokenizer.path))
    own = Path(config.workdir) / "tokenizer"
    for folder in (dataset / "tokenizer", own):
        if folder.is_dir():
            return load_tokenizer(folder)
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
        validation_fraction=config.data.validation_fraction,
        seed=config.seed,
        folder=folder,
        progress=say,
    )


def _open_validation(
    config: ConfigDict, dataset: Path, tokenizer: Tokenizer, say: Callable[[str], None]
) -> TokenCache | None:
    if next(_examples(config, dataset, "validation"), None) is None:
        say(f"{dataset} has no validation example: the run is not evaluated while it trains")
        return None
    return _open_cache(config, dataset, "validation", tokenizer, say)


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
