"""Whether a disk has room for checkpoints, told before one is begun."""

import shutil
from pathlib import Path
from typing import Any

import jax

# Descriptions, tokenizer and the file system's own needs, beside the arrays.
_MARGIN_BYTES = 4 << 20
_MARGIN_SHARE = 0.02


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
