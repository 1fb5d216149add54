"""Brings weights of the T5 family in from Hugging Face or T5X, and a trained model out.

    python -m instructrec_jax.convert --source=flan-t5-base --target=models/flan --to=orbax
    python -m instructrec_jax.convert --source=t5x/checkpoint_1000000 --target=models/t5 \
        --to=orbax --architecture=t5_1_1_small --tokenizer=spiece.model
    python -m instructrec_jax.convert --source=runs/demo --target=exported --to=hf

The source is a Hugging Face folder (config.json, safetensors in one file or several with an index,
the tokenizer's files), a T5X checkpoint, a run folder, one of its steps or a model folder.
`--to=orbax` writes a model folder for decode, evaluate and train; `--to=hf` a folder that
transformers loads. Adapters are merged.

Numbers keep their type, float32, float16 or bfloat16, unless --dtype names another. The plan, which
tensor becomes which parameter, goes to stderr before anything is written; with --dry_run nothing
is. One parameter is in memory at a time. Nothing is ever unpickled, and transformers is not needed.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from instructrec_jax.command_line import run, say
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
_SOURCE = flags.DEFINE_string("source", None, "Folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")
_TO = flags.DEFINE_enum("to", None, ["hf", "orbax"], "Format of the target.")
_DTYPE = flags.DEFINE_enum(
    "dtype", KEEP, [KEEP, "float32", "bfloat16", "float16"], "Type of the numbers that are written."
)
_MAX_SHARD_SIZE = flags.DEFINE_string(
    "max_shard_size", "5GB", "Largest safetensors file, as 500MB or 2GB."
)
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Show the plan and write nothing.")
_ARCHITECTURE = flags.DEFINE_string(
    "architecture", "", "Of a T5X source: a name such as t5_1_1_base."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder or file of the tokenizer, for a source that has none."
)

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def main() -> None:
    """The binary."""
    if not _SOURCE.value or not _TARGET.value or not _TO.value:
        raise ConfigError("give --source=FOLDER, --target=FOLDER and --to=hf or --to=orbax")
    max_shard_size = parse_size(_MAX_SHARD_SIZE.value)
    source, target = Path(_SOURCE.value), Path(_TARGET.value)
    check_folders(source, target)
    model = open_source(source, architecture=_ARCHITECTURE.value, tokenizer=_TOKENIZER.value)
    say(f"source: {model.description}")
    if _TO.value == "hf":
        write_hugging_face(
            model,
            target,
            dtype=_DTYPE.value,
            max_shard_size=max_shard_size,
            dry_run=_DRY_RUN.value,
            tell=say,
        )
    else:
        write_orbax(model, target, dtype=_DTYPE.value, dry_run=_DRY_RUN.value, tell=say)
    say("nothing is written (--dry_run)" if _DRY_RUN.value else f"written: {target}")


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


if __name__ == "__main__":
    run(main, needs_config=False)
