"""Arrays that Orbax writes one after another, each read only when its turn has come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp


@dataclass(frozen=True)
class StreamedArray:
    """An array that is elsewhere; a leaf of a parameter tree."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]  # in that shape and type

    @property
    def size(self) -> int:
        """Its numbers."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.size * self.dtype.itemsize


class _Writer(ocp.type_handlers.NumpyHandler):
    """Writes each array to its end before it reads the next."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            for future in await super().serialize([value.read()], [info], [arg]):
                future.result()
        return []


def save_streamed(folder: Path, tree: Any) -> None:
    """Writes a tree of StreamedArrays, with one of them in memory at a time.

    The files are those of any PyTreeSave of NumPy arrays.
    """
    registry = ocp.type_handlers.create_type_handler_registry((StreamedArray, _Writer()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))
