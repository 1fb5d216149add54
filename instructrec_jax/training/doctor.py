"""What `--dry_run` looks at before the run itself: the machine, and every problem at once."""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from instructrec_jax.data.tokenizer import Tokenizer, load_tokenizer
from instructrec_jax.errors import ConfigError, UserError
from instructrec_jax.training.checks import check
from instructrec_jax.training.disk_room import free_bytes, in_words
from instructrec_jax.training.environment import PACKAGES
from instructrec_jax.training.flops import peak_flops
from instructrec_jax.training.model_folder import open_model
from instructrec_jax.training.preparation import prepare_data
from instructrec_jax.training.run_folder import claimed_run_folder

# requirements.txt chooses between two names of it.
_TENSORFLOW = ("tensorflow-cpu", "tensorflow")
_MISSING = "not installed"


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
    config: ConfigDict, *, device_count: int, may_build: bool, say: Callable[[str], None]
) -> None:
    """Looks at settings, run folder, initial model, tokenizer and data, each on its own.

    Raises:
      ConfigError: everything that is wrong.
    """
    problems: list[str] = []
    _try(problems, lambda: check(config, device_count=device_count))
    _try(problems, lambda: _check_folder(Path(config.workdir)))
    initial: Tokenizer | None = None
    before = len(problems)
    if config.init:
        _try(problems, lambda: open_model(config.init))
    if config.tokenizer.path:
        _try(problems, lambda: load_tokenizer(Path(config.tokenizer.path)))
    if len(problems) == before:
        if config.init:
            initial = open_model(config.init).tokenizer
        _try(
            problems,
            lambda: prepare_data(config, may_build=may_build, initial=initial, say=say),
        )
    elif not Path(config.dataset).exists() and not may_build:
        problems.append(f"dataset {config.dataset} does not exist")
    if problems:
        raise ConfigError("\n  ".join([f"{len(problems)} problem(s):", *problems]))


def _check_folder(workdir: Path) -> None:
    with claimed_run_folder(workdir):
        pass


def _try(problems: list[str], look: Callable[[], object]) -> None:
    try:
        look()
    except UserError as error:
        first, *others = str(error).split("\n  ")
        # A heading over several problems says nothing that this list does not.
        new = others or [first]
        problems.extend(problem for problem in new if problem not in problems)
