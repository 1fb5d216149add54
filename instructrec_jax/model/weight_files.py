"""The tensors of a Hugging Face folder, read and written one at a time.

Safetensors alone, one file or several with an index; pickled weights are never opened. The format
(github.com/huggingface/safetensors): 8 bytes with the header's length, the header, JSON that names
type, shape and place of each tensor, and the numbers, little-endian.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from instructrec_jax.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# What tells a folder of weights without a config.json.
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAVE_AGAIN = "save them as safetensors, with save_pretrained of a current transformers"
# Types of weights in safetensors' words and in NumPy's.
TYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class WeightFiles:
    """All tensors of a folder.

    Attributes:
      folder: where they are.
      shapes: the shape of each tensor by name.
      dtypes: the type of each: float32, float16 or bfloat16.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the headers.

        Raises:
          CheckpointError: a file is missing, damaged, of another format or type of number.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._paths: dict[str, Path] = {}
        promised = _promised_files(folder)
        for file in sorted(set(promised.values())):
            self._read_header(folder / file)
        for name, file in promised.items():
            if name and self._paths.get(name) != folder / file:
                raise CheckpointError(f"{folder / file}: tensor {name} of {INDEX_FILE} is missing")

    def _read_header(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            with safe_open(path, framework="np") as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
                types = {name: part.get_dtype() for name, part in found.items()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(_why_unreadable(path, error)) from None
        for name, shape in shapes.items():
            if types[name] not in TYPES:
                raise CheckpointError(
                    f"{path}: tensor {name} is {types[name]}; supported are {', '.join(TYPES)}"
                )
            if name in self._paths:
                raise CheckpointError(f"{path}: tensor {name} is in {self._paths[name].name} too")
            self.shapes[name], self.dtypes[name] = shape, TYPES[types[name]]
            self._paths[name] = path

    def read(self, name: str) -> np.ndarray:
        """A tensor in its own type.

        Raises:
          CheckpointError: the file has changed or cannot be read any more.
        """
        path = self._paths[name]
        try:
            # The file is mapped into memory while it is open, and its pages count as ours.
            with safe_open(path, framework="np") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None


def _why_unreadable(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    # Of pickles, from protocol 2 on, and of the zip files with pickles that PyTorch writes.
    if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return f"{path} is a pickle, no safetensors file; it could run any code: {_SAVE_AGAIN}"
    return f"{path} is damaged or cut short: {error}"


def _promised_files(folder: Path) -> dict[str, str]:
    """The file of each tensor as the index has it; for a single file, {"": file}."""
    if (folder / WEIGHTS_FILE).is_file():
        return {"": WEIGHTS_FILE}
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map")
        for file in index.values():
            if not isinstance(file, str) or Path(file).name != file or file == "..":
                raise CheckpointError(f"{folder / INDEX_FILE} names {file!r}, not a file beside it")
        return index
    pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has pickled weights alone ({pickled[0]}): reading them could run any code; "
            + _SAVE_AGAIN
        )
    raise CheckpointError(f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; NaN and the like are no JSON.

    Raises:
      CheckpointError: it is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """A JSON file for a person too."""
    path.write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class WeightWriter:
    """Writes the tensors of a folder one after the other, in files of bounded size.

    The order is that of the wider types first, as every tensor must begin at a multiple of its
    number's size.
    """

    def __init__(self, folder: Path, tensors: Iterable[TensorInfo], *, max_shard_size: int) -> None:
        """Plans the files and writes the index, where there are several.

        Args:
          folder: an existing one.
          tensors: all that will be written, in the order in which they will come.
          max_shard_size: bytes of a file; a larger tensor has a file of its own.

        Raises:
          OSError: the index cannot be written.
        """
        tensors = list(tensors)
        self._shards = _shards(tensors, max_shard_size)
        total = sum(tensor.size_bytes for tensor in tensors)
        count = len(self._shards)
        self._paths = [folder / WEIGHTS_FILE]
        if count > 1:
            names = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
            self._paths = [folder / name for name in names]
            pairs = zip(names, self._shards, strict=True)
            weight_map = {tensor.name: name for name, shard in pairs for tensor in shard}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(folder / INDEX_FILE, index)
        self._remaining = [
            (path if place == 0 else None, shard, tensor)
            for path, shard in zip(self._paths, self._shards, strict=True)
            for place, tensor in enumerate(shard)
        ]
        self._remaining.reverse()
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, array: np.ndarray) -> None:
        """The next tensor, of the announced shape and type.

        Raises:
          OSError: it cannot be written.
        """
        path, shard, tensor = self._remaining.pop()
        if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{tensor.name} was announced as {tensor}, is {array.shape}")
        if path is not None:
            self._end_file()
            self._file = path.open("wb")
            self._file.write(_header(shard))
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def finish(self) -> None:
        """All has been written, and is on the disk."""
        if self._remaining:
            raise ValueError(f"{self._remaining[-1][2].name} was announced and not written")
        self._end_file()

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _shards(tensors: list[TensorInfo], max_shard_size: int) -> list[list[TensorInfo]]:
    """The tensors of each file, filled in order."""
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.size_bytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size_bytes
    return shards


def _header(tensors: Iterable[TensorInfo]) -> bytes:
    words = {dtype: word for word, dtype in TYPES.items()}
    # Without the format transformers refuses the file.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor.size_bytes
        header[tensor.name] = {
            "dtype": words[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
