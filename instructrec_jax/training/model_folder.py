"""A model to decode with, evaluate or start from, in whatever kind of folder it comes.

    runs/demo, runs/demo/checkpoints/600   a run of `train`, or one of its checkpoints
    runs/demo/checkpoints/best             the one with the best validation
    models/flan                            a params-only folder of `convert`
    flan-t5-base                           a Hugging Face folder

A run of LoRA holds adapters alone; it opens as the model that they make of their base. Where a
checkpoint has averaged parameters, they are the ones that are read.

This module imports neither TensorFlow nor optax, so that decoding can read a model alone.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.hugging_face_folder import HuggingFaceFolder, is_hugging_face_folder
from instructrec_jax.model.lora import LoraConfig, merge_adapters
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import (
    METADATA_FILE,
    read_metadata,
    read_tokenizer,
    restore_item,
)
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.freezing import ADAPTERS_ONLY, joined, split
from instructrec_jax.training.keeping import read_best
from instructrec_jax.training.sharding import path_name

# Names the best step of a `checkpoints/` folder in which nothing has this name.
BEST = "best"
# Lengths in tokens of a model from elsewhere: those that T5 was pretrained with, roughly.
FOREIGN_ENCODER_LENGTH, FOREIGN_DECODER_LENGTH = 512, 128


class ParameterSource(Protocol):
    """Weights in another format, checked and not yet read."""

    config: T5Config
    dtypes: dict[str, np.dtype]
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
    checksums: Mapping[str, int]  # of the parameters that are read; {} with a source
    stored_types: Mapping[str, str]  # of the parameters that are not float32
    # What the config.json that the model came with says beyond its config.
    foreign_config: Mapping[str, Any]
    item: str = "parameters"  # of an Orbax checkpoint, where they are; or "averaged"
    source: ParameterSource | None = None  # None: the parameters are in an Orbax checkpoint
    adapters: "Adapters | None" = None  # None: the parameters are whole


@dataclasses.dataclass(frozen=True)
class Adapters:
    """What makes a model folder of adapters whole."""

    lora: LoraConfig
    base: ModelFolder
    record: Mapping[str, Any]  # of `base_record`


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
    if path.name == BEST and not path.exists():
        best = read_best(path.parent)
        if best is None or not (path.parent / str(best["step"]) / METADATA_FILE).is_file():
            raise CheckpointError(
                f"{path}: which checkpoint is best is not known; a run with checkpoint.best_metric "
                "notes it"
            )
        return path.parent / str(best["step"]), f"best checkpoint by {best['metric']}"
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {problem}")
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
        f"{path} holds no checkpoint; give a run folder with checkpoints/STEP, a step or model "
        "folder, or a Hugging Face folder"
    )


def base_record(base: ModelFolder, frozen: Any, *, dtype: str) -> dict[str, Any]:
    """What a checkpoint of adapters says of the model that they adapt.

    Args:
      base: the folder that it was read from.
      frozen: its parameters, in the dtype in which the run keeps them.
      dtype: that dtype.
    """
    return {
        "path": str(base.folder),
        "absolute_path": str(base.folder.absolute()),
        "description": base.description,
        "dtype": dtype,
        "fingerprints": fingerprint(frozen),
    }


def check_base(record: Mapping[str, Any], frozen: Any, *, given: str) -> None:
    """Raises a CheckpointError where parameters are not those of the recorded base.

    Args:
      record: of `base_record`.
      frozen: parameter tree in the recorded dtype.
      given: the folder that it was read from.
    """
    expected, found = record["fingerprints"], fingerprint(frozen)
    wrong = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{given} is not the base of these adapters: {wrong[0]} has other weights than in "
            f"{record['absolute_path']} ({record['description']}) when they were trained; they "
            "need that model"
        )


def _open_base(folder: Path, record: Mapping[str, Any]) -> ModelFolder:
    # Where the run found it, or, if all was moved together, at the path that it was given by.
    places = [Path(record["absolute_path"]), Path(record["path"]).absolute()]
    for place in places:
        if place.is_dir():
            return open_model(place)
    raise CheckpointError(
        f"{folder} holds the adapters of another model, {record['description']}, which is not at "
        f"{' nor at '.join(map(str, dict.fromkeys(places)))}; put it back there"
    )


def open_model(path: str | Path) -> ModelFolder:
    """Reads all but the parameters of a run, step, params-only or Hugging Face folder.

    Raises:
      CheckpointError: nothing there, or the files are damaged.
    """
    if is_hugging_face_folder(Path(path)):
        source = HuggingFaceFolder(Path(path))
        return model_of_source(
            Path(path), source, source.tokenizer, foreign_config=source.foreign_config
        )
    folder, kind = find_model_folder(Path(path))
    metadata = read_metadata(folder)
    try:
        config = T5Config.from_dict(metadata["model"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: unknown model config: {error}") from error
    adapters, description = None, f"{kind} {path}, step {metadata['step']}"
    item = "averaged" if "averaged" in metadata["fingerprints"] else "parameters"
    if item == "averaged":
        description += ", averaged parameters"
    if config.lora is not None:
        record = metadata["base"]
        adapters = Adapters(config.lora, _open_base(folder, record), record)
        description += f", adapters merged into {adapters.base.description}"
    return ModelFolder(
        folder=folder,
        config=dataclasses.replace(config, lora=None),
        tokenizer=read_tokenizer(folder, metadata),
        step=metadata["step"],
        encoder_length=metadata["encoder_length"],
        decoder_length=metadata["decoder_length"],
        description=description,
        checksums=metadata["fingerprints"][item],
        item=item,
        stored_types=metadata["stored_types"],
        foreign_config=metadata["foreign_config"],
        adapters=adapters,
    )


def model_of_source(
    folder: Path,
    source: ParameterSource,
    tokenizer: Tokenizer,
    *,
    foreign_config: Mapping[str, Any],
) -> ModelFolder:
    """A model whose weights are in another format.

    Raises:
      CheckpointError: the tokenizer has ids without a row in the embedding.
    """
    rows = source.config.vocabulary_size
    if tokenizer.vocabulary_size > rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} ids "
            f"({len(tokenizer.sentinel_ids)} of them sentinels), the embedding {rows} rows"
        )
    return ModelFolder(
        folder=folder,
        config=source.config,
        tokenizer=tokenizer,
        step=0,
        encoder_length=FOREIGN_ENCODER_LENGTH,
        decoder_length=FOREIGN_DECODER_LENGTH,
        description=source.description,
        checksums={},
        stored_types={},
        foreign_config=foreign_config,
        source=source,
    )


def read_parameters(model: ModelFolder, target: Any) -> Any:
    """The parameters of a model folder, each in the shape, type and sharding of its target.

    Args:
      model: of `open_model`.
      target: parameter tree of ShapeDtypeStructs with shardings.

    Raises:
      CheckpointError: the files are damaged, or the model or the base of its adapters is another.
    """
    if model.adapters is not None:
        return _merged(model, model.adapters, target)
    if model.source is not None:
        read = model.source.read
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: _placed(read(path_name(path)), leaf), target
        )

    def as_stored(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        stored = model.stored_types.get(path_name(path), "float32")
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(stored), sharding=leaf.sharding)

    stored = restore_item(
        model.folder / model.item,
        jax.tree_util.tree_map_with_path(as_stored, target),
        model.checksums,
    )
    return jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), stored, target)


def _merged(model: ModelFolder, adapters: Adapters, target: Any) -> Any:
    """The base as the run kept it, and the adapters added to its kernels in float32."""
    dtype = adapters.record["dtype"]
    base = read_parameters(
        adapters.base,
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), target
        ),
    )
    check_base(adapters.record, base, given=str(adapters.base.folder))
    adapted = dataclasses.replace(model.config, lora=adapters.lora)
    place = jax.tree.leaves(target)[0].sharding
    if isinstance(place, NamedSharding):
        place = NamedSharding(place.mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(
            lambda: split(init_parameters(adapted, jax.random.key(0)), ADAPTERS_ONLY)[0]
        ),
    )
    low_rank = restore_item(model.folder / model.item, shapes, model.checksums)

    def merge(base: Any, low_rank: Any) -> Any:
        whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), base)
        merged = merge_adapters(joined(whole, low_rank), adapters.lora)
        return jax.tree.map(lambda leaf, wanted: leaf.astype(wanted.dtype), merged, target)

    places = jax.tree.map(lambda leaf: leaf.sharding, target)
    # In place, but where the base is kept in a type that the result cannot take the room of.
    donated = (0,) if dtype == "float32" else ()
    return jax.jit(merge, out_shardings=places, donate_argnums=donated)(base, low_rank)


def _placed(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> Array:
    """The array on the devices of its target, before the host reads another one."""
    array = array.astype(leaf.dtype, copy=False)
    placed = jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])
    return jax.block_until_ready(placed)


def load_model(path: str | Path) -> LoadedModel:
    """Reads a model of any folder that `open_model` takes onto one device.

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
