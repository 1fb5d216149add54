"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instructrec_jax.errors import CheckpointError


@contextmanager
def new_folder(target: Path, *, size_bytes: int) -> Iterator[Path]:
    """A folder beside `target` to fill; at the end it takes the place of `target`.

    Until then, and after a kill, what is there is `TARGET.unfinished-PID`; an exception removes it.

    Args:
      target: an existing one is replaced.
      size_bytes: about what will be written.

    Raises:
      CheckpointError: it cannot be written, or the disk has too little room.
    """
    unfinished = target.absolute().with_name(f"{target.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        free = shutil.disk_usage(unfinished).free
        if free < size_bytes:
            raise CheckpointError(
                f"{target} takes {size_bytes / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB "
                "free: make room or write elsewhere"
            )
        yield unfinished
        if target.is_dir():
            shutil.rmtree(target)
        unfinished.rename(target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
