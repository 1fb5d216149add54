"""Brings Hugging Face weights of T5 1.1 in, and a trained model out.

    python -m instructrec_jax.convert --source=flan-t5-base --target=models/flan --to=orbax
    python -m instructrec_jax.convert --source=runs/demo --target=exported --to=hf

`--to=orbax` reads config.json, safetensors (one file or several with an index; float32, float16 or
bfloat16) and spiece.model, and writes a model folder for decode and train. `--to=hf` reads a run
folder, one of its steps or a model folder, and writes a folder that transformers loads. The plan,
which tensor becomes which parameter, goes to stderr before anything is written. Nothing is ever
unpickled, and transformers is not needed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from safetensors import SafetensorError
from safetensors.numpy import save_file

from instructrec_jax.command_line import run, say
from instructrec_jax.data.tokenizer import (
    MODEL_FILE,
    T5_SENTINELS,
    Tokenizer,
    load_tokenizer,
)
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.hugging_face import (
    EMBEDDING,
    EMBEDDING_NAMES,
    HEAD,
    UNUSED_NAMES,
    Entry,
    check_architecture,
    config_from_json,
    config_to_json,
    entries,
    parameters_from_tensors,
    scales_decoder_output,
    tensors_from_parameters,
)
from instructrec_jax.model.weight_files import WEIGHTS_FILE, WeightFiles, read_json
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.model_folder import load_model

_SOURCE = flags.DEFINE_string("source", None, "Folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")
_TO = flags.DEFINE_enum("to", None, ["hf", "orbax"], "Format of the target.")

# Lengths in tokens of a model from elsewhere: those that T5 was pretrained with, roughly.
ENCODER_LENGTH, DECODER_LENGTH = 512, 128
_CONFIG_FILE = "config.json"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def main() -> None:
    """The binary."""
    if not _SOURCE.value or not _TARGET.value or not _TO.value:
        raise ConfigError("give --source=FOLDER, --target=FOLDER and --to=hf or --to=orbax")
    source, target = Path(_SOURCE.value), Path(_TARGET.value)
    check_folders(source, target)
    convert = {"orbax": to_orbax, "hf": to_hugging_face}[_TO.value]
    convert(source, target, tell=say)
    say(f"written: {target}")


def check_folders(source: Path, target: Path) -> None:
    """Raises CheckpointError for a missing source, ConfigError for a target that is in use."""
    if not source.is_dir():
        raise CheckpointError(f"--source={source} is not a folder")
    if target.exists() and target.samefile(source):
        raise ConfigError(f"--source and --target are the same folder, {source}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--target={target} exists already; give a new or an empty folder")


def to_orbax(source: Path, target: Path, *, tell: Callable[[str], None]) -> None:
    """Writes a params-only model folder from a Hugging Face folder.

    Args:
      source: the Hugging Face folder.
      target: a new or empty folder.
      tell: given the plan, line by line.

    Raises:
      CheckpointError: the source is damaged or another model; nothing is written.
    """
    fields = read_json(source / _CONFIG_FILE)
    try:
        check_architecture(fields)
        files = WeightFiles(source)
        aliases = _aliases(files, fields)
        config = _config(files, fields, aliases)
    except CheckpointError as error:
        raise _in_folder(source, error) from None
    table = entries(config)
    _check_tensors(files, table, aliases)
    tokenizer = _read_tokenizer(source, rows=config.vocabulary_size)
    for line in plan(table, aliases):
        tell(line)
    params = parameters_from_tensors(table, lambda name: files.read(aliases.get(name, name)))
    try:
        save_model(
            target,
            params=jax.tree.map(jax.numpy.asarray, params),
            config=config,
            tokenizer=tokenizer,
            encoder_length=ENCODER_LENGTH,
            decoder_length=DECODER_LENGTH,
        )
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}") from error


def _in_folder(folder: Path, error: CheckpointError) -> CheckpointError:
    text = str(error)
    return CheckpointError(text if str(folder) in text else f"{folder}: {text}")


def _aliases(files: WeightFiles, fields: Mapping[str, Any]) -> dict[str, str]:
    """Where the embedding and the head are, under another name than the table's.

    Raises:
      CheckpointError: there is no embedding, or tensors that must be equal differ.
    """
    found = [name for name in EMBEDDING_NAMES if name in files.shapes]
    if not found:
        raise CheckpointError(f"tensor {EMBEDDING} is missing")
    for name in found[1:]:
        if not _equal(files, found[0], name):
            raise CheckpointError(f"tensor {name} differs from {found[0]}: T5 has one embedding")
    aliases = {EMBEDDING: found[0]} if found[0] != EMBEDDING else {}
    if HEAD not in files.shapes:
        if fields.get("tie_word_embeddings", True) is False:
            raise CheckpointError(f"tensor {HEAD} is missing, and config.json does not tie it")
        aliases[HEAD] = found[0]
    elif scales_decoder_output(fields) and not _equal(files, found[0], HEAD):
        raise CheckpointError(
            f"config.json ties the head to the embedding, but {HEAD} differs from {found[0]}: "
            "set tie_word_embeddings to false if the head is its own"
        )
    return aliases


def _equal(files: WeightFiles, first: str, second: str) -> bool:
    if files.shapes[first] != files.shapes[second]:
        return False
    return np.array_equal(files.read(first), files.read(second), equal_nan=True)


def _config(files: WeightFiles, fields: Mapping[str, Any], aliases: Mapping[str, str]) -> T5Config:
    """The model's config.

    A head that is the embedding without the scaling, as transformers 5 makes it, has no place in
    `tied_embeddings`: it becomes a head of its own that starts out equal.
    """
    embedding = aliases.get(EMBEDDING, EMBEDDING)
    if len(files.shapes[embedding]) != 2:
        raise CheckpointError(f"tensor {embedding} has shape {files.shapes[embedding]}")
    return config_from_json(
        fields,
        vocabulary_size=files.shapes[embedding][0],
        tied=scales_decoder_output(fields),
        # Float32 files are computed in float32, so that the outputs stay those of the source.
        activation_dtype="float32" if files.types[embedding] == "F32" else "bfloat16",
    )


def _check_tensors(files: WeightFiles, table: Iterable[Entry], aliases: Mapping[str, str]) -> None:
    """Raises CheckpointError for the first missing, ill-shaped or extra tensor."""
    known = {HEAD, *EMBEDDING_NAMES, *UNUSED_NAMES}
    for entry in table:
        known.update(entry.names)
        for name in entry.names:
            name = aliases.get(name, name)
            if name not in files.shapes:
                raise CheckpointError(f"{files.folder}: tensor {name} is missing")
            if files.shapes[name] != entry.shape:
                raise CheckpointError(
                    f"{files.folder}: tensor {name} has shape {list(files.shapes[name])}, "
                    f"config.json says {list(entry.shape)}"
                )
    for name in sorted(files.shapes.keys() - known):
        raise CheckpointError(f"{files.folder}: tensor {name} belongs to no T5 of this config.json")


def plan(table: Iterable[Entry], aliases: Mapping[str, str]) -> list[str]:
    """One line a tensor: its name, its shape and the parameter that it becomes."""
    lines = []
    for entry in table:
        for number, name in enumerate(entry.names):
            layer = f"[{number}]" if entry.stacked else ""
            turned = ", transposed" if entry.transposed else ""
            path = "/".join(entry.path)
            lines.append(f"{aliases.get(name, name)} {list(entry.shape)} -> {path}{layer}{turned}")
    return lines


def _read_tokenizer(folder: Path, *, rows: int) -> Tokenizer:
    """The tokenizer of a Hugging Face folder whose embedding has `rows` rows."""
    if not (folder / MODEL_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {MODEL_FILE}: copy the SentencePiece model of the tokenizer there"
        )
    try:
        tokenizer = load_tokenizer(folder / MODEL_FILE, sentinels=_sentinels(folder))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    if tokenizer.vocabulary_size > rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} ids "
            f"({len(tokenizer.sentinel_ids)} of them sentinels), the embedding {rows} rows"
        )
    return tokenizer


def _sentinels(folder: Path) -> int:
    """The number of <extra_id_N> that tokenizer_config.json tells of, T5's 100 by default."""
    path = folder / _TOKENIZER_CONFIG_FILE
    found = read_json(path).get("extra_ids", T5_SENTINELS) if path.is_file() else T5_SENTINELS
    if type(found) is not int or found < 0:
        raise CheckpointError(f"{path}: extra_ids is {found!r}, not a number of sentinels")
    return found


def to_hugging_face(source: Path, target: Path, *, tell: Callable[[str], None]) -> None:
    """Writes a folder that transformers loads; whole or not at all.

    Args:
      source: a run folder, a step of it or a model folder.
      target: a new or empty folder.
      tell: given the plan, line by line.

    Raises:
      CheckpointError: the source is damaged, or the target cannot be written.
    """
    model = load_model(source)
    tell(f"model: {model.description}")
    for line in plan(entries(model.config), {}):
        name, _, path = line.partition(" -> ")
        tell(f"{path} -> {name}")
    tensors = tensors_from_parameters(model.config, model.params)
    unfinished = target.with_name(f"{target.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        # Without the format transformers refuses the file.
        save_file(tensors, unfinished / WEIGHTS_FILE, metadata={"format": "pt"})
        _write_json(unfinished / _CONFIG_FILE, config_to_json(model.config))
        _write_json(unfinished / _TOKENIZER_CONFIG_FILE, _tokenizer_config(model.tokenizer))
        (unfinished / MODEL_FILE).write_bytes(model.tokenizer.model_bytes)
        unfinished.rename(target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": len(tokenizer.sentinel_ids),
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main, needs_config=False)
