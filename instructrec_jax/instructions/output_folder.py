"""The folder of a build: whether it is there already, who may write it, and the progress bar."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.ingredients import differences
from instructrec_jax.instructions.reading import read_dataset_info


def finished(output: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands in the folder's dataset.json if it is this recipe's; None where there is nothing.

    Raises:
        ConfigError: the folder holds another dataset, or something that is no dataset.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        info = read_dataset_info(output)
    except DataError as error:
        raise ConfigError(
            f"{output} exists and is no finished dataset; name another --output or remove it"
        ) from error
    changed = differences(record, info)
    if not changed:
        return info
    raise ConfigError(
        f"{output} holds a dataset of another recipe (differs in {', '.join(changed)}); "
        "name another --output or remove it"
    )


@contextmanager
def claimed(partial: Path, *, kept: Path) -> Iterator[None]:
    """Make the folder, empty but for `kept`, and keep other builds out while this process lives."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{partial} cannot be made: {error.strerror}") from error
    folder = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in partial.iterdir():
            if leftover == kept:
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        yield
    except BlockingIOError as error:
        raise ConfigError(f"another build is writing {partial}") from error
    finally:
        os.close(folder)


@contextmanager
def progress_bar(title: str, total: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; yields the call for some steps.

    `total()`, the number of steps, is asked for where a bar is shown.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    shown = sys.stderr.isatty()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown
    ) as bar:
        task = bar.add_task(title, total=total() if shown else None)
        yield lambda steps: bar.advance(task, steps)
