"""A model to decode with, evaluate or start from, in whatever kind of folder it comes.

    runs/demo, runs/demo/checkpoints/600   a run of `train`, or one of its checkpoints
    models/flan                            a params-only folder of `convert`

This module imports neither TensorFlow nor optax, so that decoding can read a model alone.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import (
    METADATA_FILE,
    read_metadata,
    read_tokenizer,
    restore_item,
)
from instructrec_jax.training.sharding import path_name


class ParameterSource(Protocol):
    """Weights in another format, checked and not yet read."""

    config: T5Config
    dtypes: Mapping[str, np.dtype]
    plan: list[str]
    description: str

    def read(self, path: str) -> np.ndarray:
        """The parameter of a path such as `encoder/final_norm/scale`, in its stored type."""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """What a model folder says of itself; its parameters are still on disk."""

    folder: Path
    config: T5Config
    tokenizer: Tokenizer
    step: int
    encoder_length: int  # longest input it was trained on, in tokens
    decoder_length: int
    description: str  # what was found, for a person
    fingerprints: Mapping[str, Mapping[str, int]]
    stored_types: Mapping[str, str]  # of the parameters that are not float32
    # What the config.json that the model came with says beyond its config.
    foreign_config: Mapping[str, Any]
    source: ParameterSource | None = None  # None: the parameters are in an Orbax checkpoint


@dataclasses.dataclass(frozen=True)
class LoadedModel(ModelFolder):
    """A trained model, ready to decode with."""

    params: Any = None  # parameter tree of float32 arrays


def find_model_folder(path: Path) -> tuple[Path, str]:
    """The model folder behind a run folder, its `checkpoints`, a step folder or a model folder.

    Returns:
      The folder, and the kind of thing that `path` is.

    Raises:
      CheckpointError: nothing is there.
    """
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if (path / METADATA_FILE).is_file():
        kind = "training checkpoint" if (path / "optimizer").is_dir() else "model folder"
        return path, kind
    for steps in (path / "checkpoints", path):
        if steps.is_dir():
            numbered = [child for child in steps.iterdir() if child.name.isdecimal()]
            whole = [child for child in numbered if (child / METADATA_FILE).is_file()]
            if whole:
                return max(whole, key=lambda child: int(child.name)), "run folder"
    raise CheckpointError(
        f"{path} holds no checkpoint; give a run folder with checkpoints/STEP, or a step folder"
    )


def open_model(path: str | Path) -> ModelFolder:
    """Reads all but the parameters of a run, step or params-only folder.

    Raises:
      CheckpointError: nothing there, or the files are damaged.
    """
    folder, kind = find_model_folder(Path(path))
    metadata = read_metadata(folder)
    try:
        config = T5Config.from_dict(metadata["model"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: unknown model config: {error}") from error
    return ModelFolder(
        folder=folder,
        config=config,
        tokenizer=read_tokenizer(folder, metadata),
        step=metadata["step"],
        encoder_length=metadata["encoder_length"],
        decoder_length=metadata["decoder_length"],
        description=f"{kind} {path}, step {metadata['step']}",
        fingerprints=metadata["fingerprints"],
        stored_types=metadata["stored_types"],
        foreign_config=metadata["foreign_config"],
    )


def read_parameters(model: ModelFolder, target: Any) -> Any:
    """The parameters of a model folder, each in the shape, type and sharding of its target.

    Args:
      model: of `open_model`.
      target: parameter tree of ShapeDtypeStructs with shardings.

    Raises:
      CheckpointError: the files are damaged, or the model is another one.
    """
    if model.source is not None:
        read = model.source.read
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.device_put(
                read(path_name(path)).astype(leaf.dtype), leaf.sharding
            ),
            target,
        )

    def as_stored(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        stored = model.stored_types.get(path_name(path), "float32")
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(stored), sharding=leaf.sharding)

    stored = restore_item(
        model.folder / "parameters",
        jax.tree_util.tree_map_with_path(as_stored, target),
        model.fingerprints["parameters"],
    )
    return jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), stored, target)


def load_model(path: str | Path) -> LoadedModel:
    """Reads a model from a run, step or params-only folder onto one device.

    Raises:
      CheckpointError: nothing there, or the files are damaged.
    """
    model = open_model(path)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(lambda: init_parameters(model.config, jax.random.key(0))),
    )
    return LoadedModel(**vars(model), params=read_parameters(model, target))
