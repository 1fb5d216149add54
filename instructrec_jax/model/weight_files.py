"""The tensors of a Hugging Face folder, read one at a time; pickled weights are never opened."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16, which safetensors asks it for)
import numpy as np
from safetensors import SafetensorError, safe_open

from instructrec_jax.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_TYPES = ("F32", "F16", "BF16")


class WeightFiles:
    """All tensors of a folder, of one file or of several with an index.

    Attributes:
      folder: where they are.
      shapes: the shape of each tensor by name.
      types: the type of each, in safetensors' words.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the headers.

        Raises:
          CheckpointError: a file is missing, damaged, of another format or type of number.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        promised = _promised_files(folder)
        for file in sorted(set(promised.values())):
            self._open(file)
        for name, file in promised.items():
            if name and name not in self.shapes:
                raise CheckpointError(f"{folder / file}: tensor {name} of {INDEX_FILE} is missing")

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            opened = safe_open(path, framework="np")
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                described = opened.get_slice(name)
                self.shapes[name] = tuple(described.get_shape())
                self.types[name] = described.get_dtype()
                self._files[name] = opened
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or cut short: {error}") from None
        for name, found in self.types.items():
            if found not in _TYPES:
                raise CheckpointError(
                    f"{path}: tensor {name} is {found}; supported are {', '.join(_TYPES)}"
                )

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        return self._files[name].get_tensor(name).astype(np.float32)


def _promised_files(folder: Path) -> dict[str, str]:
    """The file of each tensor as the index has it; for a single file, {"": file}."""
    if (folder / WEIGHTS_FILE).is_file():
        return {"": WEIGHTS_FILE}
    if (folder / INDEX_FILE).is_file():
        index = read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise CheckpointError(f"{folder / INDEX_FILE} has no weight_map")
        for file in index.values():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(f"{folder / INDEX_FILE} names {file!r}, not a file beside it")
        return index
    pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} has pickled weights alone ({pickled[0]}): reading them could run any code. "
            "Save them as safetensors, with save_pretrained of a current transformers"
        )
    raise CheckpointError(f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      CheckpointError: it is missing or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
