"""A model in a Hugging Face folder: checked at once, its parameters read one at a time.

What is read: config.json, generation_config.json, safetensors, and the files of the tokenizer.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instructrec_jax.data.tokenizer import Tokenizer, load_tokenizer
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.hugging_face import (
    EMBEDDING,
    EMBEDDING_NAMES,
    HEAD,
    UNUSED_NAMES,
    Entry,
    entries,
)
from instructrec_jax.model.hugging_face_config import (
    check_architecture,
    config_from_json,
    foreign_fields,
    is_said_to_be_tied,
    umt5_remarks,
)
from instructrec_jax.model.weight_files import WEIGHT_PATTERNS, WeightFiles, read_json

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
# The key of `foreign_config` under which that file goes along.
GENERATION_KEY = "generation_config"


class HuggingFaceFolder:
    """Weights, config and tokenizer of a folder.

    Attributes:
      config: the model's.
      tokenizer: its tokenizer.
      foreign_config: what the folder's JSON files say besides `config`.
      dtypes: the type of each parameter by its path, that of its tensors.
      plan: a line a tensor, "name shape type -> parameter[layer]", and remarks.
      description: what was found, for a person.
    """

    def __init__(self, folder: Path, *, tokenizer: Path | None = None) -> None:
        """Reads everything but the weights, and compares the embedding's copies.

        Args:
          folder: the Hugging Face folder.
          tokenizer: folder or file of the tokenizer, where it is not in `folder`.

        Raises:
          CheckpointError: a file is missing or damaged, the model is of another family, or a
            tensor is missing, left over, or of another shape than config.json says.
          ConfigError: there is no tokenizer at the path given.
        """
        fields = read_json(folder / CONFIG_FILE)
        try:
            check_architecture(fields)
            self._files = WeightFiles(folder)
            self._remarks: list[str] = []
            self._aliases, tied = self._shared_tensors(fields)
            self.config = self._config(fields, tied=tied)
            self._entries = {entry.name: entry for entry in entries(self.config)}
            self._check_tensors()
        except CheckpointError as error:
            raise _naming(folder, error) from None
        self.dtypes = {name: self._dtype(entry) for name, entry in self._entries.items()}
        self.tokenizer = _read_tokenizer(folder, tokenizer)
        self.foreign_config: dict[str, Any] = foreign_fields(fields)
        if (folder / GENERATION_FILE).is_file():
            self.foreign_config[GENERATION_KEY] = read_json(folder / GENERATION_FILE)
        remarks = [*self._remarks, *umt5_remarks(self.config, fields["model_type"])]
        self.plan = [*self._plan(), *remarks]
        self.description = f"Hugging Face folder {folder} ({fields['model_type']})"

    def read(self, path: str) -> np.ndarray:
        """The parameter of a path such as `encoder/final_norm/scale`, in its stored type.

        Raises:
          CheckpointError: the files cannot be read any more.
        """
        return self._entries[path].parameter(
            lambda name: self._files.read(self._aliases.get(name, name)), self.dtypes[path]
        )

    def _shared_tensors(self, fields: Mapping[str, Any]) -> tuple[dict[str, str], bool]:
        """The embedding's name, where it is another than the table's, and whether it is the head.

        The tensors decide, for transformers 5 writes of any model that it is tied. A head that
        equals the embedding stays a head of its own where config.json says so.

        Raises:
          CheckpointError: there is no embedding, or tensors that must be equal differ.
        """
        shapes = self._files.shapes
        found = [name for name in EMBEDDING_NAMES if name in shapes]
        if not found:
            raise CheckpointError(f"tensor {EMBEDDING} is missing")
        for name in found[1:]:
            if not self._equal(found[0], name):
                raise CheckpointError(
                    f"tensor {name} differs from {found[0]}: T5 has one embedding"
                )
        aliases = {EMBEDDING: found[0]} if found[0] != EMBEDDING else {}
        said = is_said_to_be_tied(fields)
        if HEAD not in shapes:
            if not said:
                raise CheckpointError(f"tensor {HEAD} is missing, and config.json does not tie it")
            return aliases, True
        if said and not self._equal(found[0], HEAD):
            self._remarks.append(f"{HEAD} differs from {found[0]}: the head is not tied")
            said = False
        return aliases, said

    def _equal(self, first: str, second: str) -> bool:
        if self._files.shapes[first] != self._files.shapes[second]:
            return False
        return np.array_equal(self._files.read(first), self._files.read(second), equal_nan=True)

    def _config(self, fields: Mapping[str, Any], *, tied: bool) -> T5Config:
        embedding = self._aliases.get(EMBEDDING, EMBEDDING)
        shape, dtype = self._files.shapes[embedding], self._files.dtypes[embedding]
        if len(shape) != 2:
            raise CheckpointError(f"tensor {embedding} has shape {list(shape)}")
        rows = fields.get("vocab_size", shape[0])
        if type(rows) is not int:
            raise CheckpointError(f"config.json: vocab_size must be a whole number, not {rows!r}")
        config = config_from_json(
            fields,
            vocabulary_size=rows,
            tied=tied,
            # Float32 files are computed in float32, so that the outputs stay those of the source.
            activation_dtype="float32" if dtype == np.float32 else "bfloat16",
        )
        layers, tensors = config.num_encoder_layers + config.num_decoder_layers, self._files.shapes
        if layers > len(tensors):
            # The table of so many names may not even fit into memory.
            raise CheckpointError(
                f"config.json: {layers} layers are more than the {len(tensors)} tensors there are"
            )
        return config

    def _check_tensors(self) -> None:
        """Raises CheckpointError for missing, ill-shaped or extra tensors."""
        problems = []
        known = {HEAD, *EMBEDDING_NAMES, *UNUSED_NAMES}
        shapes = self._files.shapes
        for entry in self._entries.values():
            known.update(entry.names)
            for name in (self._aliases.get(name, name) for name in entry.names):
                if name not in shapes:
                    problems.append(f"tensor {name} is missing")
                elif shapes[name] != entry.shape:
                    problems.append(
                        f"tensor {name} has shape {list(shapes[name])}, "
                        f"config.json says {list(entry.shape)}"
                    )
        problems += [
            f"tensor {name} belongs to no model of this config.json"
            for name in sorted(shapes.keys() - known)
        ]
        if problems:
            others = f"; and {len(problems) - 1} more such problems" if problems[1:] else ""
            raise CheckpointError(problems[0] + others)

    def _dtype(self, entry: Entry) -> np.dtype:
        """The type of the parameter: its tensors', or float32 where they are of several."""
        found = {self._files.dtypes[self._aliases.get(name, name)] for name in entry.names}
        if len(found) == 1:
            return found.pop()
        types = " and ".join(sorted(dtype.name for dtype in found))
        self._remarks.append(f"{entry.name} has layers of {types}: all of them become float32")
        return np.dtype(np.float32)

    def _plan(self) -> Iterable[str]:
        for entry in self._entries.values():
            turned = ", transposed" if entry.transposed else ""
            for number, name in enumerate(entry.names):
                name = self._aliases.get(name, name)
                dtype = self._files.dtypes[name].name
                yield f"{name} {list(entry.shape)} {dtype} -> {entry.place(number)}{turned}"


def is_hugging_face_folder(path: Path) -> bool:
    """Whether a folder is one, whole or not, and no folder of ours."""
    if not path.is_dir() or (path / "metadata").exists() or (path / "checkpoints").exists():
        return False
    if (path / CONFIG_FILE).is_file():
        return not any(child.name.isdecimal() for child in path.iterdir())
    return any(next(path.glob(pattern), None) for pattern in WEIGHT_PATTERNS)


def _naming(folder: Path, error: CheckpointError) -> CheckpointError:
    text = str(error)
    return CheckpointError(text if str(folder) in text else f"{folder}: {text}")


def _read_tokenizer(folder: Path, given: Path | None) -> Tokenizer:
    """The tokenizer; ConfigError of the path that was given, CheckpointError of the folder's."""
    try:
        tokenizer = load_tokenizer(given or folder)
    except ConfigError as error:
        if given:
            raise
        raise CheckpointError(str(error)) from None
    return tokenizer
