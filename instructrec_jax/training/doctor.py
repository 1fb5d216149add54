"""What is looked at before a run: every problem at once, and for `--dry_run` the machine."""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
from ml_collections import ConfigDict

from instructrec_jax.data.tokenizer import load_tokenizer
from instructrec_jax.errors import ConfigError, UserError
from instructrec_jax.training.checks import check, check_model
from instructrec_jax.training.disk_room import free_bytes, in_words
from instructrec_jax.training.environment import PACKAGES
from instructrec_jax.training.flops import peak_flops
from instructrec_jax.training.model_folder import ModelFolder, open_model
from instructrec_jax.training.preparation import check_dataset, prepare_data
from instructrec_jax.training.run_folder import claimed_run_folder
from instructrec_jax.training.same_run import model_of_run

# requirements.txt chooses between two names of it.
_TENSORFLOW = ("tensorflow-cpu", "tensorflow")
_MISSING = "not installed"
T = TypeVar("T")


def machine(workdir: Path) -> str:
    """A few lines: versions, devices, memory and disk."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    found = [_version(name) for name in _TENSORFLOW]
    tensorflow = next((version for version in found if version != _MISSING), _MISSING)
    devices = jax.devices()
    kind = devices[0].device_kind
    peak = peak_flops(kind)
    speed = f"{peak / 1e12:g} TFLOP/s each in bfloat16" if peak else "peak FLOP/s not known: no MFU"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return "\n".join(
        [
            f"Python {platform.python_version()}, {versions}, tensorflow {tensorflow}",
            f"{len(devices)} device(s) of kind {kind}, {speed}; {jax.process_count()} process(es)",
            f"host memory {in_words(pages)}; free on the disk of {workdir}: "
            f"{in_words(free_bytes(workdir))}",
        ]
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING


def check_everything(
    config: ConfigDict,
    *,
    device_count: int,
    may_build: bool,
    prepare: Callable[[str], None] | None,
) -> None:
    """Looks at settings, run folder, initial model, tokenizer and data, each on its own.

    Args:
      config: with the keys of configs/base.py.
      device_count: devices of all processes.
      may_build: whether a dataset folder that is missing is built.
      prepare: told of each stage while all that the first step needs of the data is made, so that
        what comes to light there is told too. None: only what is quickly found.

    Raises:
      UserError: the only thing that is wrong.
      ConfigError: everything that is wrong.
    """
    errors: list[UserError] = []
    _try(errors, lambda: check(config, device_count=device_count))
    _try(errors, lambda: _check_folder(Path(config.workdir)))
    before = len(errors)
    initial: ModelFolder | None = None
    if config.init:
        initial = _try(errors, lambda: open_model(config.init))
    if initial is not None:
        _try(errors, lambda: _check_initial(config, initial, device_count))
    if config.tokenizer.path:
        _try(errors, lambda: load_tokenizer(Path(config.tokenizer.path)))
    # The whole of the data is read in vain, but for what is wrong in it, where no run can follow.
    whole = prepare is not None and len(errors) > before
    _try(errors, lambda: check_dataset(config, may_build=may_build, whole=whole))
    if prepare is not None and len(errors) == before:
        tokenizer = initial.tokenizer if initial else None
        ready = partial(prepare_data, config, may_build=may_build, initial=tokenizer, say=prepare)
        _try(errors, ready)
    if len(errors) == 1:
        raise errors[0]
    problems = list(dict.fromkeys(problem for error in errors for problem in _problems(error)))
    if problems:
        raise ConfigError("\n  ".join([f"{len(problems)} problem(s):", *problems]))


def _check_initial(config: ConfigDict, initial: ModelFolder, device_count: int) -> None:
    model = model_of_run(config, initial, vocabulary_size=initial.tokenizer.vocabulary_size)
    check_model(config, model, device_count=device_count)


def _check_folder(workdir: Path) -> None:
    with claimed_run_folder(workdir):
        pass


def _try(errors: list[UserError], look: Callable[[], T]) -> T | None:
    try:
        return look()
    except UserError as error:
        errors.append(error)
        return None


def _problems(error: UserError) -> list[str]:
    # A heading over several problems says nothing that the list of all does not.
    first, *others = str(error).split("\n  ")
    return others or [first]
