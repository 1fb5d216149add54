"""The checkpoints of a run: saved asynchronously, committed atomically, verified when restored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from instructrec_jax.command_line import say
from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config
from instructrec_jax.training.checkpoint import (
    DamagedCheckpointError,
    check_item,
    checkpoint_metadata,
    first_line,
    read_item,
    read_metadata,
    read_tokenizer,
    tokenizer_item,
)
from instructrec_jax.training.disk_room import checkpoint_bytes, free_bytes, in_words
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.keeping import (
    METRICS,
    Keeping,
    finish_removals,
    kept,
    read_figures,
    remove_step,
    step_folders,
    write_figures,
)
from instructrec_jax.training.quiet_orbax import quiet_orbax
from instructrec_jax.training.sharding import path_name


class RunCheckpoints:
    """The `checkpoints/` folder of a run: saves train states and finds the one to go on from."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        keep_best: int = 0,
        best_metric: str = "",
        warn: Callable[[str], None] = say,
    ) -> None:
        """Opens or makes the folder.

        Args:
          folder: `WORKDIR/checkpoints`.
          keep: newest checkpoints kept.
          keep_best: best checkpoints kept besides.
          best_metric: a name in `keeping.METRICS`, or "".
          warn: told in one line of what is damaged and of a disk without room.

        Raises:
          CheckpointError: the folder cannot be made or written.
        """
        self.folder = folder.absolute()
        self._keeping = Keeping(newest=keep, best=keep_best, metric=best_metric)
        self._warn = warn
        quiet_orbax()
        self._is_main = jax.process_index() == 0
        self._figures: dict[int, dict[str, Any]] = read_figures(self.folder)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # What is kept is decided here: Orbax's own choice lets a NaN push out the best.
        options = ocp.CheckpointManagerOptions(create=True, cleanup_tmp_directories=True)
        try:
            if self._is_main:
                self.folder.mkdir(parents=True, exist_ok=True)
                finish_removals(self.folder)
            return ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {error.strerror}") from error

    def latest_step(self) -> int | None:
        """The newest step that was saved whole, or None."""
        return self._manager.latest_step()

    def note_figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """Keeps the validation figures of a step, by which its checkpoint is compared."""
        self._figures[step] = {name: figures.get(name) for name in METRICS}

    def save(
        self,
        step: int,
        *,
        items: Mapping[str, Any],
        config: T5Config,
        tokenizer: Tokenizer,
        encoder_length: int,
        decoder_length: int,
        identity: Mapping[str, Any],
        foreign_config: Mapping[str, Any],
        base: Mapping[str, Any] | None = None,
        required: bool = True,
    ) -> bool:
        """Starts writing a checkpoint; returns when the arrays may be overwritten.

        Args:
          step: optimizer steps taken.
          items: trees of arrays by name: "parameters" (adapters alone where there is a base),
            "optimizer" (its state and counters), "averaged" where a moving average is kept.
          config: the model's.
          tokenizer: the one that the data was made with.
          encoder_length: row length in tokens.
          decoder_length: row length in tokens.
          identity: the position in the data, and what must be the same when the run goes on.
          foreign_config: see `save_model`.
          base: the model that the parameters adapt, of `model_folder.base_record`, or None.
          required: too little room is an error; else it is told and nothing is written.

        Returns:
          Whether a checkpoint is being written.

        Raises:
          CheckpointError: the disk is full or the folder cannot be written.
        """
        self.wait()
        if not self._has_room(step, items, required=required):
            return False
        metadata = checkpoint_metadata(
            step=step,
            config=config,
            tokenizer=tokenizer,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
            fingerprints={name: fingerprint(tree) for name, tree in items.items()},
            identity=identity,
            parameters=items["parameters"],
            foreign_config=foreign_config,
            base=base,
        )
        arguments = ocp.args.Composite(
            **{name: ocp.args.PyTreeSave(tree) for name, tree in items.items()},
            tokenizer=ocp.args.PyTreeSave(tokenizer_item(tokenizer)),
            metadata=ocp.args.JsonSave(metadata),
        )
        try:
            begun = self._manager.save(step, args=arguments)
        except Exception as error:
            raise self._write_error(error) from error
        if not begun:
            raise CheckpointError(
                f"{self.folder}: step {step} is not saved, since a later one, "
                f"{self.latest_step()}, is there; move it away"
            )
        return True

    def _has_room(self, step: int, items: Mapping[str, Any], *, required: bool) -> bool:
        need = checkpoint_bytes(items)
        free = free_bytes(self.folder)
        # The processes of a run go the same way.
        if _agreed(free >= need):
            return True
        words = (
            f"{self.folder}: no room for the checkpoint of step {step}: it takes up to "
            f"{in_words(need)}, and the disk has {in_words(free)} free; make room"
        )
        if required:
            raise CheckpointError(f"{words}, then the same command goes on from the newest one")
        self._warn(f"WARNING: {words}. It is not written; the run goes on to the next one")
        return False

    def wait(self) -> None:
        """Returns when every started save is on disk, and no more are kept than should be.

        Raises:
          CheckpointError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
            if self._is_main:
                self._prune()
        except Exception as error:
            raise self._write_error(error) from error

    def _prune(self) -> None:
        folders = step_folders(self.folder)
        stay = kept(folders, self._figures, self._keeping)
        # Those of a step after the newest are of one that is not saved yet.
        newest = max(folders, default=0)
        self._figures = {
            step: figures
            for step, figures in self._figures.items()
            if step in stay or step > newest
        }
        if self._figures:
            # First what is best, then the removal: a killed run never names one that is gone.
            write_figures(self.folder, stay, self._figures, self._keeping.metric)
        for step in folders.keys() - stay:
            remove_step(folders[step])

    def _write_error(self, error: Exception) -> CheckpointError:
        # A full disk comes as any of several types, from Python or from TensorStore.
        return CheckpointError(
            f"{self.folder}: a checkpoint cannot be written: {first_line(error)}; the ones before "
            "are whole, and the same command goes on from the newest"
        )

    def close(self) -> None:
        """Waits for saves and lets the folder go."""
        self.wait()
        self._manager.close()

    def newest_metadata(self) -> dict[str, Any] | None:
        """The metadata of the newest step that has any, for a check before the restore."""
        for folder in reversed(step_folders(self.folder).values()):
            try:
                return read_metadata(folder)
            except DamagedCheckpointError:
                continue
        return None

    def restore_newest(
        self, target: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """The newest step whose arrays match their fingerprints.

        A step that does not is set aside as `STEP.damaged`, loudly, and the one before is tried.

        Args:
          target: the items of `save` as trees of ShapeDtypeStructs with shardings.

        Returns:
          (step, items, metadata), or None where there is no checkpoint.

        Raises:
          CheckpointError: there are checkpoints and none of them verifies, or one holds other
            arrays, or the files cannot be read for another reason than damage.
        """
        for step, folder in reversed(step_folders(self.folder).items()):
            found, problem = _read(folder, target)
            if found is not None:
                return step, *found
            self._warn(
                f"WARNING: checkpoint {step} cannot be used and is set aside as {step}.damaged: "
                + (problem or "another process finds it damaged")
            )
            self._set_aside(folder)
        if any(self.folder.glob("*.damaged*")):
            raise CheckpointError(
                f"{self.folder}: no checkpoint can be used; the damaged ones are kept as "
                "STEP.damaged. Move them away to start from step 0, or give another --workdir"
            )
        return None

    def _set_aside(self, folder: Path) -> None:
        if self._is_main:
            others = len(list(folder.parent.glob(f"{folder.name}.damaged*")))
            suffix = f"-{others + 1}" if others else ""
            folder.rename(folder.with_name(f"{folder.name}.damaged{suffix}"))
            self._figures.pop(int(folder.name), None)
        # The manager listed its steps when it was opened.
        _agreed(True)
        self._manager.close()
        self._manager = self._open()


def _read(
    folder: Path, target: Mapping[str, Any]
) -> tuple[tuple[dict[str, Any], dict[str, Any]] | None, str]:
    """((items, metadata), "") of a good checkpoint, (None, what is wrong) of a damaged one."""
    problem = ""
    try:
        metadata = read_metadata(folder)
        _check_names(folder, target, metadata["fingerprints"])
        # The run has its own; one who decodes from the checkpoint needs this one.
        read_tokenizer(folder, metadata)
        items = {name: read_item(folder / name, tree) for name, tree in target.items()}
    except DamagedCheckpointError as error:
        problem = str(error)
    # The checksums are computed by all processes together: none may stay behind.
    if not _agreed(not problem):
        return None, problem
    try:
        for name, tree in items.items():
            check_item(folder / name, tree, metadata["fingerprints"][name])
    except DamagedCheckpointError as error:
        problem = str(error)
    return ((items, metadata), "") if _agreed(not problem) else (None, problem)


def _check_names(
    folder: Path, target: Mapping[str, Any], fingerprints: Mapping[str, Mapping[str, int]]
) -> None:
    """Raises a CheckpointError where a checkpoint holds other arrays than those asked for."""
    for item, tree in target.items():
        asked = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        other = sorted(asked ^ fingerprints.get(item, {}).keys())
        if other:
            where = "is not in it" if other[0] in asked else "is not in this run"
            raise CheckpointError(
                f"{folder} holds another state than this run's: {item}/{other[0]} {where}; give "
                "another --workdir"
            )


def _agreed(good: bool) -> bool:
    """Whether all processes of the run say so."""
    if jax.process_count() == 1:
        return good
    return bool(multihost_utils.process_allgather(np.asarray(good)).all())
