"""From weights in any format to a model folder, or to a folder that transformers loads.

One parameter is in memory at a time; what is written is there whole or not at all.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructrec_jax.data.tokenizer import load_tokenizer
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.hugging_face import Entry, entries
from instructrec_jax.model.hugging_face_config import (
    config_to_json,
    export_remarks,
    generation_config,
)
from instructrec_jax.model.hugging_face_folder import (
    CONFIG_FILE,
    GENERATION_FILE,
    GENERATION_KEY,
    HuggingFaceFolder,
    is_hugging_face_folder,
)
from instructrec_jax.model.new_folder import new_folder
from instructrec_jax.model.t5x_arrays import is_t5x_folder
from instructrec_jax.model.t5x_folder import T5XFolder
from instructrec_jax.model.weight_files import TensorInfo, WeightWriter, write_json
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.host_parameters import parameter_types, read_parameter
from instructrec_jax.training.model_folder import ModelFolder, model_of_source, open_model
from instructrec_jax.training.streamed_arrays import StreamedArray

KEEP = "keep"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def check_folders(source: Path, target: Path) -> None:
    """Raises CheckpointError for a missing source, ConfigError for a target that is in use."""
    if not source.is_dir():
        raise CheckpointError(f"--source={source} is not a folder")
    if target.exists() and target.samefile(source):
        raise ConfigError(f"--source and --target are the same folder, {source}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--target={target} exists already; give a new or an empty folder")


def parse_size(text: str) -> int:
    """Bytes of a size such as "500MB" or "1.5GB". Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B?)", text.strip().upper())
    unit = found[2] if found else ""
    size = float(found[1]) * _UNITS[unit if unit in _UNITS else f"{unit}B"] if found else 0
    if size < 1:
        raise ConfigError(f"--max_shard_size={text} is not a size; write for example 500MB or 2GB")
    return int(size)


def open_source(source: Path, *, architecture: str = "", tokenizer: str = "") -> ModelFolder:
    """A model of any format, everything checked and no weights read.

    Args:
      source: the folder.
      architecture: of a T5X checkpoint, see `T5XFolder`; "" where it is not named.
      tokenizer: folder or file of the tokenizer; "" where the source has its own.

    Raises:
      CheckpointError: the folder is damaged, or a model that is not supported.
      ConfigError: a flag is missing, or means nothing for this source.
    """
    if is_t5x_folder(source):
        if not tokenizer:
            raise ConfigError(f"{source} has no tokenizer: give --tokenizer=FOLDER or FILE")
        weights = T5XFolder(source, architecture=architecture)
        return model_of_source(source, weights, load_tokenizer(Path(tokenizer)), foreign_config={})
    if architecture:
        raise ConfigError(f"--architecture is for T5X checkpoints; {source} says what it is")
    if is_hugging_face_folder(source) and tokenizer:
        folder = HuggingFaceFolder(source, tokenizer=Path(tokenizer))
        return model_of_source(
            source, folder, folder.tokenizer, foreign_config=folder.foreign_config
        )
    if tokenizer:
        raise ConfigError(f"{source} has its own tokenizer: leave --tokenizer out")
    return open_model(source)


def write_orbax(
    model: ModelFolder,
    target: Path,
    *,
    dtype: str = KEEP,
    dry_run: bool = False,
    tell: Callable[[str], None],
) -> None:
    """Writes a params-only model folder; whole or not at all.

    Args:
      model: of `open_source`.
      target: a new or empty folder.
      dtype: of the numbers, or KEEP.
      dry_run: only tell the plan.
      tell: given the plan, line by line.

    Raises:
      CheckpointError: the source is damaged, or the target cannot be written.
    """
    kept, written = parameter_types(model), _written_types(model, dtype)
    table = entries(model.config)
    if model.source is not None:
        plan = model.source.plan
    else:
        plan = [f"{e.name} {list(e.parameter_shape)} {kept[e.name].name}" for e in table]
    _tell_plan(plan, kept, written, tell)
    if dry_run:
        return
    params: dict[str, Any] = {}
    for entry in table:
        module = params
        for part in entry.path[:-1]:
            module = module.setdefault(part, {})
        module[entry.path[-1]] = _streamed(model, entry, written[entry.name])
    save_model(
        target,
        params=params,
        config=model.config,
        tokenizer=model.tokenizer,
        encoder_length=model.encoder_length,
        decoder_length=model.decoder_length,
        step=model.step,
        foreign_config=model.foreign_config,
    )


def _streamed(model: ModelFolder, entry: Entry, dtype: np.dtype) -> StreamedArray:
    def read() -> np.ndarray:
        return cast(read_parameter(model, entry.name), dtype, entry.name)

    return StreamedArray(entry.parameter_shape, dtype, read)


def write_hugging_face(
    model: ModelFolder,
    target: Path,
    *,
    dtype: str = KEEP,
    max_shard_size: int = 5 * 10**9,
    dry_run: bool = False,
    tell: Callable[[str], None],
) -> None:
    """Writes a folder that transformers loads; whole or not at all.

    Args:
      model: of `open_source`.
      target: a new or empty folder.
      dtype: of the numbers, or KEEP.
      max_shard_size: bytes of a file of weights.
      dry_run: only tell the plan.
      tell: given the plan, line by line.

    Raises:
      CheckpointError: the source is damaged, or the target cannot be written.
    """
    kept, written = parameter_types(model), _written_types(model, dtype)
    # Wider numbers first, see WeightWriter.
    table = sorted(entries(model.config), key=lambda entry: -written[entry.name].itemsize)
    plan = [line for entry in table for line in _export_lines(entry, kept[entry.name])]
    _tell_plan(plan, kept, written, tell)
    foreign = dict(model.foreign_config)
    generation = generation_config(foreign.pop(GENERATION_KEY, {}))
    for line in export_remarks(model.config, foreign):
        tell(line)
    if dry_run:
        return
    tensors = [
        TensorInfo(name, entry.shape, written[entry.name])
        for entry in table
        for name in entry.names
    ]
    embedding = written["token_embedder/embedding"].name
    with new_folder(target, size_bytes=sum(tensor.size_bytes for tensor in tensors)) as folder:
        with WeightWriter(folder, tensors, max_shard_size=max_shard_size) as writer:
            for entry in table:
                for tensor in _tensors(model, entry, written[entry.name]):
                    writer.write(tensor)
            writer.finish()
        config = config_to_json(model.config, dtype=embedding, foreign=foreign)
        write_json(folder / CONFIG_FILE, config)
        write_json(folder / GENERATION_FILE, generation)
        for name, content in model.tokenizer.hugging_face_files().items():
            (folder / name).write_bytes(content)


def _tensors(model: ModelFolder, entry: Entry, dtype: np.dtype) -> Iterator[np.ndarray]:
    # Once it is exhausted the parameter is let go, before the next one is read.
    for number, tensor in enumerate(entry.tensors(read_parameter(model, entry.name))):
        yield cast(tensor, dtype, entry.place(number))


def _export_lines(entry: Entry, dtype: np.dtype) -> Iterator[str]:
    turned = ", transposed" if entry.transposed else ""
    ours = list(entry.shape[::-1] if entry.transposed else entry.shape)
    for number, name in enumerate(entry.names):
        yield f"{entry.place(number)} {ours} {dtype.name} -> {name}{turned}"


def _written_types(model: ModelFolder, dtype: str) -> dict[str, np.dtype]:
    kept = parameter_types(model)
    return kept if dtype == KEEP else dict.fromkeys(kept, jnp.dtype(dtype))


def _tell_plan(
    plan: list[str],
    kept: dict[str, np.dtype],
    written: dict[str, np.dtype],
    tell: Callable[[str], None],
) -> None:
    for line in plan:
        tell(line)
    casts = [(kept[name].name, dtype.name) for name, dtype in written.items()]
    for source, target in sorted(set(casts)):
        if source != target:
            tell(f"cast from {source} to {target}: {casts.count((source, target))} parameters")


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in another type; CheckpointError where a number is beyond that type's range."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if not np.isfinite(result).all() and np.isfinite(array).all():
        raise CheckpointError(
            f"{name} holds numbers beyond the range of {dtype.name}: choose another --dtype"
        )
    return result
