"""Orbax checkpoints: saved asynchronously, committed atomically, verified when they are read.

A model folder (`checkpoints/STEP/`, or a folder of `save_model`) describes itself:

    parameters/   the parameter tree, float32
    tokenizer/    the SentencePiece model, as bytes
    metadata/     JSON: format version, step, model config, tokenizer, data plan, fingerprints
    optimizer/    optimizer state and counters; absent in a params-only folder

This module imports neither TensorFlow nor optax, so that decoding can read a model alone.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from instructrec_jax.data.tokenizer import Tokenizer, tokenizer_from_bytes
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import init_parameters

FORMAT_VERSION = 1
_METADATA_FILE = Path("metadata") / "metadata"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to decode with."""

    params: Any  # parameter tree of float32 arrays
    config: T5Config
    tokenizer: Tokenizer
    step: int
    encoder_length: int  # longest input it was trained on, in tokens
    decoder_length: int
    folder: Path  # the model folder that was read
    description: str  # what was found, for a person


def fingerprint(tree: Any) -> dict[str, int]:
    """A checksum of each leaf that does not depend on how the leaf is sharded.

    The sum, modulo 2^32, of a leaf's words times odd weights that grow with the position. A single
    flipped bit always changes it.

    Args:
      tree: arrays of a type of 1, 2 or 4 bytes.

    Returns:
      {leaf path: checksum}.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = _checksums([leaf for _, leaf in leaves])
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name: int(value) for name, value in zip(names, jax.device_get(sums), strict=True)}


@jax.jit
def _checksums(leaves: list[Array]) -> list[Array]:
    def checksum(leaf: Array) -> Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
        position = jnp.zeros(leaf.shape, jnp.uint32)
        stride = 1
        for axis in reversed(range(leaf.ndim)):
            index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            position = position + index * jnp.uint32(stride % 2**32)
            stride *= leaf.shape[axis]
        return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)

    return [checksum(leaf) for leaf in leaves]


def _metadata(
    *,
    step: int,
    config: T5Config,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    fingerprints: Mapping[str, Mapping[str, int]],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "step": step,
        "model": config.to_dict(),
        "tokenizer": {"sha256": tokenizer.sha256, "sentinels": len(tokenizer.sentinel_ids)},
        "encoder_length": encoder_length,
        "decoder_length": decoder_length,
        "fingerprints": {name: dict(sums) for name, sums in fingerprints.items()},
        "data": dict(data),
    }


def _tokenizer_item(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    return {"sentencepiece_model": np.frombuffer(tokenizer.model_bytes, np.uint8)}


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
        data: Mapping[str, Any],
    ) -> None:
        """Starts writing a checkpoint; returns when the arrays may be overwritten.

        Args:
          step: optimizer steps taken.
          parameters: parameter tree.
          optimizer: optimizer state and counters.
          config: the model's.
          tokenizer: the one that the data was made with.
          encoder_length: row length in tokens.
          decoder_length: row length in tokens.
          data: position in the data and the hash of its plan.

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
            data=data,
        )
        items = ocp.args.Composite(
            parameters=ocp.args.PyTreeSave(parameters),
            optimizer=ocp.args.PyTreeSave(optimizer),
            tokenizer=ocp.args.PyTreeSave(_tokenizer_item(tokenizer)),
            metadata=ocp.args.JsonSave(metadata),
        )
        try:
            self._manager.save(step, args=items)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot write step {step}: {error}") from error

    def wait(self) -> None:
        """Returns when every started save is on disk.

        Raises:
          CheckpointError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: a checkpoint failed: {error}") from error

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
            try:
                metadata = read_metadata(folder)
                restored = {
                    name: _restore(folder / name, tree, metadata["fingerprints"][name])
                    for name, tree in target.items()
                }
                return step, restored, metadata
            except CheckpointError as error:
                warn(f"WARNING: checkpoint {step} cannot be used: {error}")
                self._set_aside(folder)
        if steps:
            raise CheckpointError(
                f"{self.folder}: none of the {len(steps)} checkpoints can be used; "
                "they are kept as *.damaged. Start again with another --workdir"
            )
        return None

    def _set_aside(self, folder: Path) -> None:
        if jax.process_index() == 0:
            folder.rename(folder.with_name(folder.name + ".damaged"))
        # The manager listed its steps when it was opened.
        self._manager.close()
        self._manager = self._open()


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Raises:
      CheckpointError: the description is missing, unreadable or of a newer format.
    """
    file = folder / _METADATA_FILE
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no model: {file.name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is not readable: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this version reads {FORMAT_VERSION}"
        )
    return metadata


def _restore(folder: Path, target: Any, expected: Mapping[str, int]) -> Any:
    """The arrays of one item, in the target's shardings, checked against their fingerprints."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(target)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            restored = checkpointer.restore(
                folder.absolute(),
                args=ocp.args.PyTreeRestore(item=target, restore_args=restore_args),
            )
    except Exception as error:
        # Orbax and TensorStore raise many types for damaged files, all with long explanations.
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise CheckpointError(f"{folder} cannot be read: {first_line}") from error
    found = fingerprint(restored)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong or found.keys() != dict(expected).keys():
        raise CheckpointError(f"{folder} is damaged: checksum of {(wrong or ['tree'])[0]} is wrong")
    return restored


def save_model(
    folder: Path,
    *,
    params: Any,
    config: T5Config,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    step: int = 0,
) -> None:
    """Writes a params-only model folder; an existing one is replaced.

    Args:
      folder: where to.
      params: parameter tree.
      config: the model's.
      tokenizer: its tokenizer.
      encoder_length: longest input in tokens.
      decoder_length: longest target in tokens.
      step: optimizer steps that made it.
    """
    metadata = _metadata(
        step=step,
        config=config,
        tokenizer=tokenizer,
        encoder_length=encoder_length,
        decoder_length=decoder_length,
        fingerprints={"parameters": fingerprint(params)},
        data={},
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            folder.absolute(),
            args=ocp.args.Composite(
                parameters=ocp.args.PyTreeSave(params),
                tokenizer=ocp.args.PyTreeSave(_tokenizer_item(tokenizer)),
                metadata=ocp.args.JsonSave(metadata),
            ),
            force=True,
        )


def find_model_folder(path: Path) -> tuple[Path, str]:
    """The model folder behind a run folder, its `checkpoints`, a step folder or a model folder.

    Returns:
      The folder, and the kind of thing that `path` is.

    Raises:
      CheckpointError: nothing is there.
    """
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if (path / _METADATA_FILE).is_file():
        kind = "training checkpoint" if (path / "optimizer").is_dir() else "model folder"
        return path, kind
    for steps in (path / "checkpoints", path):
        if steps.is_dir():
            numbered = [child for child in steps.iterdir() if child.name.isdecimal()]
            whole = [child for child in numbered if (child / _METADATA_FILE).is_file()]
            if whole:
                return max(whole, key=lambda child: int(child.name)), "run folder"
    raise CheckpointError(
        f"{path} holds no checkpoint; give a run folder with checkpoints/STEP, or a step folder"
    )


def load_model(path: str | Path) -> LoadedModel:
    """Reads parameters, config and tokenizer from a run, step or params-only folder.

    Raises:
      CheckpointError: nothing there, or the files are damaged.
    """
    folder, kind = find_model_folder(Path(path))
    metadata = read_metadata(folder)
    try:
        config = T5Config.from_dict(metadata["model"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: unknown model config: {error}") from error
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(lambda: init_parameters(config, jax.random.key(0))),
    )
    params = _restore(folder / "parameters", target, metadata["fingerprints"]["parameters"])
    tokenizer = _load_tokenizer(folder, metadata)
    return LoadedModel(
        params=params,
        config=config,
        tokenizer=tokenizer,
        step=metadata["step"],
        encoder_length=metadata["encoder_length"],
        decoder_length=metadata["decoder_length"],
        folder=folder,
        description=f"{kind} {path}, step {metadata['step']}",
    )


def _load_tokenizer(folder: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            item = checkpointer.restore(
                (folder / "tokenizer").absolute(),
                args=ocp.args.PyTreeRestore(
                    restore_args={"sentencepiece_model": ocp.RestoreArgs(restore_type=np.ndarray)}
                ),
            )
    except Exception as error:
        raise CheckpointError(f"{folder / 'tokenizer'} cannot be read: {error}") from error
    tokenizer = tokenizer_from_bytes(
        item["sentencepiece_model"].tobytes(), metadata["tokenizer"]["sentinels"]
    )
    if tokenizer.sha256 != metadata["tokenizer"]["sha256"]:
        raise CheckpointError(f"{folder / 'tokenizer'} is damaged: its checksum is wrong")
    return tokenizer
