"""The arrays of a T5X checkpoint, read one at a time; nothing is unpickled.

A checkpoint is a folder `checkpoint_STEP` with a msgpack file `checkpoint`, the tree of the train
state: {"version": 3, "optimizer": {"target": parameters, "state": the optimizer's}}. A leaf is an
array, or names a sub-folder with a zarr array: a TensorStore spec, or "PLACEHOLDER://FOLDER" where
Orbax wrote it. The sub-folder of a parameter is called target.encoder.encoder_norm.scale and so on,
so the parameters are found without the msgpack file too.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax.serialization import msgpack_restore

from instructrec_jax.errors import CheckpointError

TREE_FILE = "checkpoint"
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")
_TARGET_FOLDER = re.compile(r"(_?optimizer\.)?target\.(.+)")
_STATE_FOLDER = re.compile(r"(_?optimizer\.)?state\..+")
_PLACEHOLDER = "PLACEHOLDER://"
_ZARR_FILE = ".zarray"
# Version 2 differs in storing bfloat16 as uint16, which is refused by its type.
_VERSIONS = (2, 3)
_TYPES = ("float32", "float16", "bfloat16")
# What TensorStore raises, by the status of the operation.
_STORE_ERRORS = (ValueError, OSError, RuntimeError, OverflowError)


class T5XArrays:
    """The parameters of a checkpoint by name, "encoder/encoder_norm/scale".

    Attributes:
      folder: of the checkpoint.
      shapes: the shape of each array.
      dtypes: the type of each: float32, float16 or bfloat16.
      ignored: the number of arrays of the optimizer's state, which are left alone.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what describes the arrays, and sees that their files are there.

        Args:
          folder: a checkpoint, or a folder of checkpoints, of which it takes the newest.

        Raises:
          CheckpointError: something is missing, damaged, or of another format or type of number.
        """
        self.folder = _newest(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._arrays: dict[str, Any] = {}
        target, self.ignored = self._tree()
        for name, leaf in sorted(_leaves(target)):
            array = leaf if isinstance(leaf, np.ndarray) else self._open(name, leaf)
            dtype = array.dtype if isinstance(leaf, np.ndarray) else array.dtype.numpy_dtype
            if dtype.name not in _TYPES:
                raise self._error(name, f"is {dtype.name}; supported are {', '.join(_TYPES)}")
            self._arrays[name] = array
            self.shapes[name] = tuple(array.shape)
            self.dtypes[name] = np.dtype(dtype)

    def read(self, name: str) -> np.ndarray:
        """An array as it is stored.

        Raises:
          CheckpointError: a file of it is damaged.
        """
        array = self._arrays[name]
        if isinstance(array, np.ndarray):
            return array
        try:
            return np.asarray(array.read().result())
        except _STORE_ERRORS as error:
            raise self._error(name, f"is damaged: {_first_line(error)}") from None

    def label(self, name: str) -> str:
        """How messages call an array: as its sub-folder, which a person can look at."""
        return "target." + name.replace("/", ".")

    def _error(self, name: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.folder}: array {self.label(name)} {problem}")

    def _tree(self) -> tuple[Mapping[str, Any], int]:
        """The parameters' part of the tree, and the number of leaves in the optimizer's part."""
        path = self.folder / TREE_FILE
        if not path.is_file():
            return self._tree_of_folders()
        contents = _restore(path)
        version = contents.get("version", _VERSIONS[-1])
        if version not in _VERSIONS:
            raise CheckpointError(
                f"{path} is of version {version!r}, not {' or '.join(map(str, _VERSIONS))}"
            )
        for state in (contents.get("optimizer"), contents.get("_optimizer"), contents):
            if isinstance(state, dict) and isinstance(state.get("target"), dict):
                return state["target"], sum(1 for _ in _leaves(state.get("state")))
        raise CheckpointError(f"{path} has no optimizer/target: no checkpoint of T5X")

    def _tree_of_folders(self) -> tuple[Mapping[str, Any], int]:
        target: dict[str, Any] = {}
        ignored = 0
        for folder in self.folder.iterdir():
            if match := _TARGET_FOLDER.fullmatch(folder.name):
                target[match[2].replace(".", "/")] = _PLACEHOLDER + folder.name
            ignored += _STATE_FOLDER.fullmatch(folder.name) is not None
        if not target:
            raise CheckpointError(
                f"{self.folder} is no checkpoint of T5X: it has neither a file {TREE_FILE} nor "
                "folders target.*"
            )
        return target, ignored

    def _open(self, name: str, leaf: Any) -> Any:
        """The TensorStore of a leaf: always a zarr array in a sub-folder, whatever the spec says.

        A spec holds the path and the store that the array was written to, which may be anywhere:
        only its last component is taken.
        """
        spec = leaf
        while isinstance(spec, dict) and isinstance(spec.get("base"), dict):
            spec = spec["base"]  # of a cast, which the stored type makes needless
        if isinstance(spec, dict) and spec.get("driver") != "zarr":
            raise self._error(name, f"has driver {spec.get('driver')!r}; supported is 'zarr'")
        stored = _stored_path(spec).rstrip("/").rpartition("/")[2]
        if stored in ("", ".", ".."):
            raise self._error(name, "is neither an array nor the name of one")
        path = self.folder / stored
        if not (path / _ZARR_FILE).is_file():
            raise self._error(name, f"is missing: there is no {stored}/{_ZARR_FILE}")
        kvstore = {"driver": "file", "path": str(path.resolve())}
        try:
            store = tensorstore.open(
                {"driver": "zarr", "kvstore": kvstore}, open=True, read=True
            ).result()
        except _STORE_ERRORS as error:
            raise self._error(name, f"is damaged: {_first_line(error)}") from None
        metadata = spec.get("metadata") if isinstance(spec, dict) else None
        promised = metadata.get("shape") if isinstance(metadata, dict) else None
        if isinstance(promised, list) and promised != list(store.shape):
            raise self._error(
                name, f"has shape {list(store.shape)}, {TREE_FILE} promises {promised}"
            )
        # TensorStore would read zeros in its place.
        for chunk in _chunks(store):
            if not (path / chunk).is_file():
                raise self._error(name, f"is incomplete: {stored}/{chunk} is missing")
        return store


def is_t5x_folder(folder: Path) -> bool:
    """Whether `T5XArrays` is what could read it; damaged ones are, and are refused there."""
    if not folder.is_dir():
        return False
    found = [path for path in folder.iterdir() if _STEP_FOLDER.fullmatch(path.name)]
    return any(
        path.name == TREE_FILE or _TARGET_FOLDER.fullmatch(path.name)
        for place in (folder, *found)
        if place.is_dir()
        for path in place.iterdir()
    )


def _newest(folder: Path) -> Path:
    """The folder itself, or the last of the checkpoints in it."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    steps = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := _STEP_FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    found = max(steps)[1] if steps else folder
    if (found / "manifest.ocdbt").is_file():
        raise CheckpointError(f"{found} keeps all arrays in one OCDBT store: not supported")
    return found


def _restore(path: Path) -> dict[str, Any]:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if encoded.startswith(b"model_checkpoint_path"):
        raise CheckpointError(f"{path} belongs to a TensorFlow checkpoint, not to one of T5X")
    try:
        contents = msgpack_restore(encoded)
    except Exception as error:  # random bytes make it raise almost anything
        raise CheckpointError(f"{path} is damaged or cut short: {_first_line(error)}") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} is damaged: it holds no tree")
    return contents


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every leaf that is not None with its name; a TensorStore spec is a leaf."""
    if isinstance(tree, Mapping) and not isinstance(tree.get("driver"), str):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif tree is not None:
        yield "/".join(path), tree


def _stored_path(spec: Any) -> str:
    """The path in a spec, of TensorStore before and since 0.1.14; "" where there is none."""
    if isinstance(spec, str):
        return spec.removeprefix(_PLACEHOLDER) if spec.startswith(_PLACEHOLDER) else ""
    kvstore = spec.get("kvstore") if isinstance(spec, dict) else None
    for place in (kvstore, spec):
        if isinstance(place, dict) and isinstance(place.get("path"), str) and place["path"]:
            return place["path"]
    return kvstore if isinstance(kvstore, str) else ""


def _chunks(store: Any) -> Iterator[str]:
    """The files of a zarr array, relative to its folder."""
    separator = store.spec().to_json()["metadata"]["dimension_separator"]
    sizes = zip(store.shape, store.chunk_layout.read_chunk.shape, strict=True)
    for place in np.ndindex(*(-(-size // chunk) for size, chunk in sizes)):
        yield separator.join(map(str, place)) or "0"


def _first_line(error: Exception) -> str:
    """Without the spec that TensorStore appends."""
    text = str(error).partition(" [tensorstore_spec=")[0]
    return (text.splitlines() or [type(error).__name__])[0]
