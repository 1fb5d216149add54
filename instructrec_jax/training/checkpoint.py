"""The folder of one checkpoint: what is in it, and its arrays, verified when they are read.

A model folder (`checkpoints/STEP/`, or a folder of `save_model`) describes itself:

    parameters/   the parameter tree, each leaf of a type of its own; of LoRA the adapters alone
    tokenizer/    the tokenizer's model, as bytes
    metadata/     JSON: format version, step, model config, tokenizer, data plan, fingerprints
    optimizer/    optimizer state and counters; absent in a params-only folder
    averaged/     moving average of the parameters, where a run keeps one

All calls of Orbax are here, in run_checkpoints.py, which saves the steps of a run, and in
streamed_arrays.py; model_folder.py reads models of any format.
This module imports neither TensorFlow nor optax, so that decoding can read a model alone.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from instructrec_jax.data.tokenizer import Tokenizer, tokenizer_from_bytes
from instructrec_jax.errors import CheckpointError, ConfigError, UserError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.new_folder import new_folder
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.quiet_orbax import quiet_orbax
from instructrec_jax.training.sharding import path_name
from instructrec_jax.training.streamed_arrays import StreamedArray, save_streamed

FORMAT_VERSION = 2
METADATA_FILE = Path("metadata") / "metadata"

_METADATA_KEYS = (
    "step",
    "model",
    "tokenizer",
    "encoder_length",
    "decoder_length",
    "fingerprints",
    "identity",
    "stored_types",
    "foreign_config",
    "base",
)
# What Orbax, TensorStore and the system say of a reading that failed though the files may be good.
# Any other failure means damage: broken JSON, broken compression, missing and short files.
_NOT_DAMAGE = (
    "RESOURCE_EXHAUSTED",
    "PERMISSION_DENIED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "Cannot allocate memory",
    "Permission denied",
    "Too many open files",
    "Input/output error",
)


class DamagedCheckpointError(CheckpointError):
    """The files of a checkpoint are not those that were written."""


def checkpoint_metadata(
    *,
    step: int,
    config: T5Config,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    fingerprints: Mapping[str, Mapping[str, int]],
    identity: Mapping[str, Any],
    parameters: Any,
    foreign_config: Mapping[str, Any],
    base: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the `metadata/` of a checkpoint holds; see `RunCheckpoints.save` for the arguments."""
    stored_types = {
        path_name(path): leaf.dtype.name
        for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)
        if leaf.dtype != np.float32
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "model": config.to_dict(),
        "tokenizer": {
            "kind": tokenizer.kind,
            "sha256": tokenizer.sha256,
            "sentinels": len(tokenizer.sentinel_ids),
        },
        "encoder_length": encoder_length,
        "decoder_length": decoder_length,
        "fingerprints": {name: dict(sums) for name, sums in fingerprints.items()},
        "identity": dict(identity),
        "stored_types": stored_types,
        "foreign_config": dict(foreign_config),
        "base": base,
    }
    return {**metadata, "sha256": _sha256(metadata)}


def _sha256(metadata: Mapping[str, Any]) -> str:
    # As JSON gives it back: with lists for tuples.
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_item(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """What the `tokenizer/` of a checkpoint holds."""
    # Orbax writes no empty array, and a tokenizer of bytes has no model.
    return {"model": np.frombuffer(tokenizer.model_bytes + b"\0", np.uint8)}


def first_line(error: BaseException) -> str:
    """The first line of a library's explanation, which may have hundreds.

    Of a long one the ends: it begins with what was being done, and ends with what was wrong.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:120]} ... {line[-180:]}"


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Raises:
      CheckpointError: the description is missing, unreadable or of a newer format.
    """
    file = folder / METADATA_FILE
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{folder} holds no model: {file.name} is missing") from error
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{file} is not readable: {error}") from error
    if not isinstance(metadata, dict):
        raise DamagedCheckpointError(f"{file} is damaged: it holds no object")
    # Checkpoints of earlier versions have no checksum of the description itself.
    checksum = metadata.pop("sha256", None)
    if checksum not in (None, _sha256(metadata)):
        raise DamagedCheckpointError(f"{file} is damaged: its checksum is wrong")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this version reads {FORMAT_VERSION}"
        )
    missing = [key for key in _METADATA_KEYS if key not in metadata]
    if missing:
        raise DamagedCheckpointError(f"{file} lacks {', '.join(missing)}")
    return metadata


def restore_item(folder: Path, target: Any, expected: Mapping[str, int]) -> Any:
    """The arrays of one item of a checkpoint, checked against their fingerprints.

    Args:
      folder: the item's, such as `checkpoints/STEP/parameters`.
      target: tree of ShapeDtypeStructs with shardings, of the types that are stored.
      expected: fingerprint of each leaf.

    Raises:
      DamagedCheckpointError: the files are not those that were written.
      CheckpointError: they cannot be read, or hold another tree.
    """
    restored = read_item(folder, target)
    check_item(folder, restored, expected)
    return restored


def read_item(folder: Path, target: Any) -> Any:
    """The arrays of one item; errors as of `restore_item`, but for what the checksums find."""
    return _restore(folder, target, ocp.checkpoint_utils.construct_restore_args(target))


def check_item(folder: Path, restored: Any, expected: Mapping[str, int]) -> None:
    """Raises a DamagedCheckpointError where arrays have not the expected fingerprints."""
    found = fingerprint(restored)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong or found.keys() != dict(expected).keys():
        name = (wrong or ["tree"])[0]
        raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {name} is wrong")


def verify_item(folder: Path, expected: Mapping[str, int]) -> int:
    """Reads every array of an item, one at a time, as a run does; returns how many there are.

    Raises:
      DamagedCheckpointError: the files are not those that were written.
      CheckpointError: they cannot be read.
    """
    quiet_orbax()
    _check_descriptions(folder)
    try:
        # A Checkpointer's `metadata` keeps the cause of a failure to itself.
        tree = ocp.PyTreeCheckpointHandler().metadata(folder.absolute()).tree
    except Exception as error:
        raise _read_error(folder, error) from error
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    missing = sorted({*expected} ^ {*names})
    if missing:
        raise DamagedCheckpointError(f"{folder} is damaged: {missing[0]} is missing or too much")
    # As a run reads them, by the same files.
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    types = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=place), tree)
    for place_in_tree, name in enumerate(names):
        # All others are left on disk.
        item = jax.tree_util.tree_map_with_path(
            lambda path, _, name=name: 0 if path_name(path) == name else ocp.PLACEHOLDER, tree
        )
        restored = jax.tree.leaves(_restore(folder, item, types))[place_in_tree]
        check_item(folder, {name: restored}, {name: expected[name]})
    return len(names)


def restore_array(folder: Path, name: str, expected: int) -> np.ndarray:
    """One array of an item on the host, in the type in which it is stored.

    Args:
      folder: the item's, such as `checkpoints/STEP/parameters`.
      name: its path, such as "encoder/final_norm/scale".
      expected: its fingerprint.

    Raises:
      DamagedCheckpointError: the files are not those that were written.
      CheckpointError: they cannot be read, or have no such array.
    """
    item: Any = 0
    restore_args: Any = ocp.RestoreArgs(restore_type=np.ndarray)
    for part in reversed(name.split("/")):
        item, restore_args = {part: item}, {part: restore_args}
    restored = _restore(folder, item, restore_args, partial_restore=True)
    check_item(folder, restored, {name: expected})
    return jax.tree.leaves(restored)[0]


def _restore(folder: Path, item: Any, restore_args: Any, *, partial_restore: bool = False) -> Any:
    quiet_orbax()
    _check_descriptions(folder)
    arguments = ocp.args.PyTreeRestore(
        item=item, restore_args=restore_args, partial_restore=partial_restore
    )
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(folder.absolute(), args=arguments)
    except Exception as error:
        raise _read_error(folder, error) from error


def _check_descriptions(folder: Path) -> None:
    """Raises where the files in which Orbax describes an item's arrays are damaged, and names them.

    Orbax itself says where in the JSON it stumbled and not in which file, or does without.
    """
    for file in (folder / "_METADATA", *sorted(folder.glob("array_metadatas/*"))):
        try:
            json.loads(file.read_bytes())
        except FileNotFoundError as error:
            raise DamagedCheckpointError(f"{folder} is damaged: {file.name} is missing") from error
        except ValueError as error:
            raise DamagedCheckpointError(f"{file} is damaged: {first_line(error)}") from error
        except OSError as error:
            raise _read_error(folder, error) from error


def _read_error(folder: Path, error: Exception) -> CheckpointError:
    # Orbax and TensorStore raise many types, all with long explanations.
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    if isinstance(causes[-1], KeyboardInterrupt):
        # Orbax wraps a signal too; files whose reading was interrupted are not damaged.
        raise causes[-1]
    hindered = any(
        isinstance(cause, MemoryError) or words in str(cause)
        for cause in causes
        for words in _NOT_DAMAGE
    )
    kind = CheckpointError if hindered else DamagedCheckpointError
    # The last cause says what it is of the file, the first one only that it was read.
    return kind(f"{folder} cannot be read: {first_line(causes[-1])}")


def read_tokenizer(folder: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
      DamagedCheckpointError: its files are damaged.
      CheckpointError: they cannot be read.
    """
    how = {"model": ocp.RestoreArgs(restore_type=np.ndarray)}
    item = _restore(folder / "tokenizer", None, how)
    described = metadata["tokenizer"]
    try:
        tokenizer = tokenizer_from_bytes(
            item["model"].tobytes()[:-1], described["sentinels"], kind=described["kind"]
        )
    except ConfigError as error:
        raise DamagedCheckpointError(f"{folder / 'tokenizer'} is damaged: {error}") from error
    if tokenizer.sha256 != described["sha256"]:
        raise DamagedCheckpointError(f"{folder / 'tokenizer'} is damaged: its checksum is wrong")
    return tokenizer


def save_model(
    folder: Path,
    *,
    params: Any,
    config: T5Config,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    step: int = 0,
    foreign_config: Mapping[str, Any] | None = None,
) -> None:
    """Writes a params-only model folder; an existing one is replaced.

    Args:
      folder: where to.
      params: parameter tree, of float32, float16 or bfloat16 arrays, or of StreamedArrays, of which
        one at a time is in memory.
      config: the model's.
      tokenizer: its tokenizer.
      encoder_length: longest input in tokens.
      decoder_length: longest target in tokens.
      step: optimizer steps that made it.
      foreign_config: fields of the config.json that the model came with which its config does not
        hold; they go back into the config.json of an export.

    Raises:
      CheckpointError: the folder cannot be written, or the disk has too little room.
    """
    sums: dict[str, int] = {}

    def streamed(path: tuple[Any, ...], leaf: Any) -> StreamedArray:
        def read() -> np.ndarray:
            array = leaf.read() if isinstance(leaf, StreamedArray) else np.asarray(leaf)
            sums.update(fingerprint({path_name(path): array}))
            return array

        return StreamedArray(leaf.shape, np.dtype(leaf.dtype), read)

    tree = jax.tree_util.tree_map_with_path(streamed, params)
    size_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    with new_folder(folder, size_bytes=size_bytes) as unfinished:
        try:
            save_streamed(unfinished / "parameters", tree)
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save(unfinished / "tokenizer", tokenizer_item(tokenizer))
            metadata = checkpoint_metadata(
                step=step,
                config=config,
                tokenizer=tokenizer,
                encoder_length=encoder_length,
                decoder_length=decoder_length,
                fingerprints={"parameters": sums},
                identity={},
                parameters=tree,
                foreign_config=foreign_config or {},
                base=None,
            )
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
                checkpointer.save(unfinished / METADATA_FILE.parent, ocp.args.JsonSave(metadata))
        except UserError:
            raise
        except Exception as error:
            raise CheckpointError(f"{folder} cannot be written: {first_line(error)}") from error
