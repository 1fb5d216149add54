"""Orbax checkpoints: saved asynchronously, committed atomically, verified when they are read.

A model folder (`checkpoints/STEP/`, or a folder of `save_model`) describes itself:

    parameters/   the parameter tree, each leaf of a type of its own; of LoRA the adapters alone
    tokenizer/    the tokenizer's model, as bytes
    metadata/     JSON: format version, step, model config, tokenizer, data plan, fingerprints
    optimizer/    optimizer state and counters; absent in a params-only folder

All calls of Orbax are here and in streamed_arrays.py; model_folder.py reads models of any format.
This module imports neither TensorFlow nor optax, so that decoding can read a model alone.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from instructrec_jax.data.tokenizer import Tokenizer, tokenizer_from_bytes
from instructrec_jax.errors import CheckpointError, ConfigError, UserError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.new_folder import new_folder
from instructrec_jax.training.fingerprint import fingerprint
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
# What Orbax and TensorStore say of files that are missing or damaged, against a reading that failed
# for another reason (no memory, no permission, another tree of arrays).
_DAMAGE = (
    "DATA_LOSS",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "not found",
    "No such file",
    "corrupt",
    "rror decod",
)


class DamagedCheckpointError(CheckpointError):
    """The files of a checkpoint are not those that were written."""


def _metadata(
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
    stored_types = {
        path_name(path): leaf.dtype.name
        for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)
        if leaf.dtype != np.float32
    }
    return {
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


def _tokenizer_item(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    # Orbax writes no empty array, and a tokenizer of bytes has no model.
    return {"model": np.frombuffer(tokenizer.model_bytes + b"\0", np.uint8)}


class RunCheckpoints:
    """The `checkpoints/` folder of a run: saves train states and finds the one to go on from."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Opens or makes the folder.

        Args:
          folder: `WORKDIR/checkpoints`.
          keep: newest checkpoints kept.
        """
        self.folder = folder.absolute()
        self._keep = keep
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, create=True, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """The newest step that was saved whole, or None."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        *,
        parameters: Any,
        optimizer: Any,
        config: T5Config,
        tokenizer: Tokenizer,
        encoder_length: int,
        decoder_length: int,
        identity: Mapping[str, Any],
        foreign_config: Mapping[str, Any],
        base: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts writing a checkpoint; returns when the arrays may be overwritten.

        Args:
          step: optimizer steps taken.
          parameters: parameter tree, or its adapters where there is a base.
          optimizer: optimizer state and counters.
          config: the model's.
          tokenizer: the one that the data was made with.
          encoder_length: row length in tokens.
          decoder_length: row length in tokens.
          identity: the position in the data, and what must be the same when the run goes on.
          foreign_config: see `save_model`.
          base: the model that the parameters adapt, of `model_folder.base_record`, or None.

        Raises:
          CheckpointError: the disk is full or the folder cannot be written.
        """
        fingerprints = {
            "parameters": fingerprint(parameters),
            "optimizer": fingerprint(optimizer),
        }
        metadata = _metadata(
            step=step,
            config=config,
            tokenizer=tokenizer,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
            fingerprints=fingerprints,
            identity=identity,
            parameters=parameters,
            foreign_config=foreign_config,
            base=base,
        )
        items = ocp.args.Composite(
            parameters=ocp.args.PyTreeSave(parameters),
            optimizer=ocp.args.PyTreeSave(optimizer),
            tokenizer=ocp.args.PyTreeSave(_tokenizer_item(tokenizer)),
            metadata=ocp.args.JsonSave(metadata),
        )
        try:
            self._manager.save(step, args=items)
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Returns when every started save is on disk.

        Raises:
          CheckpointError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> CheckpointError:
        # A full disk comes as any of several types, from Python or from TensorStore.
        return CheckpointError(
            f"{self.folder}: a checkpoint cannot be written: {first_line(error)}"
        )

    def close(self) -> None:
        """Waits for saves and lets the folder go."""
        self.wait()
        self._manager.close()

    def newest_metadata(self) -> dict[str, Any] | None:
        """The metadata of the newest step that has any, for a check before the restore."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return read_metadata(self.folder / str(step))
            except CheckpointError:
                continue
        return None

    def restore_newest(
        self, target: Mapping[str, Any], *, warn: Callable[[str], None]
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest step whose arrays match their fingerprints.

        A step that does not is set aside as `STEP.damaged`, loudly, and the one before is tried.

        Args:
          target: {"parameters": tree, "optimizer": tree} of ShapeDtypeStructs with shardings.
          warn: told of every damaged step.

        Returns:
          (step, {"parameters", "optimizer"}, metadata), or None where there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints and none of them verifies.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            folder = self.folder / str(step)
            restored, problem = None, ""
            try:
                metadata = read_metadata(folder)
                restored = {
                    name: restore_item(folder / name, tree, metadata["fingerprints"][name])
                    for name, tree in target.items()
                }
            except DamagedCheckpointError as error:
                problem = str(error)
            if restored is not None and _all_processes_agree(not problem):
                return step, restored, metadata
            warn(f"WARNING: checkpoint {step} cannot be used: {problem or 'damaged elsewhere'}")
            self._set_aside(folder)
        if any(self.folder.glob("*.damaged*")):
            raise CheckpointError(
                f"{self.folder}: no checkpoint can be used; the damaged ones are kept as "
                "STEP.damaged. Move them away to start from step 0, or give another --workdir"
            )
        return None

    def _set_aside(self, folder: Path) -> None:
        if jax.process_index() == 0:
            others = len(list(folder.parent.glob(f"{folder.name}.damaged*")))
            suffix = f"-{others + 1}" if others else ""
            folder.rename(folder.with_name(f"{folder.name}.damaged{suffix}"))
        # The manager listed its steps when it was opened.
        self._manager.close()
        self._manager = self._open()


def _all_processes_agree(good: bool) -> bool:
    if jax.process_count() == 1:
        return good
    return bool(multihost_utils.process_allgather(np.asarray(good)).all())


def first_line(error: Exception) -> str:
    """The first line of a library's explanation, which may have hundreds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


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
    version = metadata.get("format_version") if isinstance(metadata, dict) else None
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
    restored = _restore(folder, target, ocp.checkpoint_utils.construct_restore_args(target))
    found = fingerprint(restored)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong or found.keys() != dict(expected).keys():
        name = (wrong or ["tree"])[0]
        raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {name} is wrong")
    return restored


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
    if fingerprint(restored) != {name: expected}:
        raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {name} is wrong")
    return jax.tree.leaves(restored)[0]


def _restore(folder: Path, item: Any, restore_args: Any, *, partial_restore: bool = False) -> Any:
    arguments = ocp.args.PyTreeRestore(
        item=item, restore_args=restore_args, partial_restore=partial_restore
    )
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            return checkpointer.restore(folder.absolute(), args=arguments)
    except Exception as error:
        # Orbax and TensorStore raise many types, all with long explanations.
        damaged = any(words in str(error) for words in _DAMAGE)
        kind = DamagedCheckpointError if damaged else CheckpointError
        raise kind(f"{folder} cannot be read: {first_line(error)}") from error


def read_tokenizer(folder: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
      CheckpointError: its files are damaged.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            item = checkpointer.restore(
                (folder / "tokenizer").absolute(),
                args=ocp.args.PyTreeRestore(
                    restore_args={"model": ocp.RestoreArgs(restore_type=np.ndarray)}
                ),
            )
    except Exception as error:
        raise CheckpointError(
            f"{folder / 'tokenizer'} cannot be read: {first_line(error)}"
        ) from error
    described = metadata["tokenizer"]
    try:
        tokenizer = tokenizer_from_bytes(
            item["model"].tobytes()[:-1], described["sentinels"], kind=described["kind"]
        )
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'tokenizer'} is damaged: {error}") from error
    if tokenizer.sha256 != described["sha256"]:
        raise CheckpointError(f"{folder / 'tokenizer'} is damaged: its checksum is wrong")
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
                checkpointer.save(unfinished / "tokenizer", _tokenizer_item(tokenizer))
            metadata = _metadata(
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
