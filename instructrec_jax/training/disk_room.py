"""Whether a disk has room for checkpoints, told before one is begun."""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.training.keeping import step_folders

# Descriptions, tokenizer and the file system's own needs, beside the arrays.
_MARGIN_BYTES = 4 << 20
_MARGIN_SHARE = 0.02
# Disk full, quota used up, larger than a file may be.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checkpoint_bytes(items: Any) -> int:
    """At most so many bytes a checkpoint of a tree of arrays takes; compression makes it less."""
    arrays = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(items))
    return int(arrays * (1 + _MARGIN_SHARE)) + _MARGIN_BYTES


def free_bytes(folder: Path) -> int:
    """Bytes that the disk of a folder, or of the folder that it will be in, has free."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def in_words(size_bytes: float) -> str:
    """1234567 -> "1.23 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes / 1e3:.0f} kB"


def check_room(
    folder: Path, items: Any, *, keep: int, last_step: int, tell: Callable[[str], None]
) -> None:
    """Tells of a disk that will not hold the checkpoints of a run.

    Args:
      folder: `WORKDIR/checkpoints`, which need not be there yet.
      items: what a checkpoint holds, arrays or their shapes.
      keep: checkpoints that stay; while one is written there is one more.
      last_step: of the run; one that is finished writes no more.
      tell: given a line where there is room for one checkpoint and not for all.

    Raises:
      ConfigError: there is not even room for one, as any process of the run finds.
    """
    steps = step_folders(folder)
    need, free = checkpoint_bytes(items), free_bytes(folder)
    # The processes of a run go the same way, and one may see an older state of a network disk.
    is_finished, free = _agreed(last_step in steps, free)
    if is_finished:
        return
    figures = f"a checkpoint takes up to {in_words(need)}, the disk has {in_words(free)} free"
    if free < need:
        raise ConfigError(f"{folder}: no room: {figures}; make room or give another --workdir")
    more = max(keep + 1 - len(steps), 1)
    if free < more * need:
        tell(
            f"WARNING: {folder}: {figures}, and up to {more} more will be there at once "
            f"({in_words(more * need)}); make room, or lower checkpoint.keep"
        )


def _agreed(is_finished: bool, free: int) -> tuple[bool, int]:
    """Whether all processes find the run finished, and the least free bytes that one finds."""
    if jax.process_count() == 1:
        return is_finished, free
    # Without 64 bits, JAX would cut the number off.
    own = np.array([is_finished, free >> 32, free & 0xFFFFFFFF], np.uint32)
    found = multihost_utils.process_allgather(own).astype(np.int64)
    return bool(found[:, 0].all()), int(((found[:, 1] << 32) | found[:, 2]).min())


@contextmanager
def full_disk_told(workdir: Path) -> Iterator[None]:
    """Turns the error of any file on a full disk into a CheckpointError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise CheckpointError(
            f"{error.filename or workdir} cannot be written: {error.strerror}; make room, then "
            "the same command goes on from the newest checkpoint"
        ) from error
