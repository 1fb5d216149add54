"""What lies in the `checkpoints/` folder of a run, whole, damaged and unfinished."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.errors import CheckpointError
from instructrec_jax.training.checkpoint import (
    METADATA_FILE,
    read_metadata,
    read_tokenizer,
    verify_item,
)
from instructrec_jax.training.disk_room import in_words
from instructrec_jax.training.keeping import (
    METRICS,
    Keeping,
    kept,
    read_best,
    read_figures,
    remove_step,
    step_folders,
    write_figures,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One folder that is, or was to be, a checkpoint."""

    folder: Path
    step: int | None  # None: set aside as damaged, or not finished
    seconds: float  # since 1970, when it was written
    size_bytes: int
    state: str  # in words
    verified: bool
    is_best: bool
    figures: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's, such as "500" or "500.damaged"."""
        return self.folder.name


def steps_folder(path: Path) -> Path:
    """The `checkpoints/` folder of a run folder, or of itself.

    Raises:
      CheckpointError: there is none.
    """
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and (folder.name == "checkpoints" or step_folders(folder)):
            return folder.absolute()
    problem = "holds no checkpoints/" if path.is_dir() else "is not a folder"
    raise CheckpointError(f"{path} {problem}; give the run folder of `train`")


def inventory(folder: Path) -> list[Entry]:
    """Every step in a `checkpoints/` folder in rising order, then what is none; nothing is read."""
    steps, best = step_folders(folder), read_best(folder)
    figures = read_figures(folder)
    others = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    entries = []
    for child in [*steps.values(), *(child for child in others if not child.name.isdecimal())]:
        step = int(child.name) if child.name.isdecimal() else None
        entries.append(
            Entry(
                folder=child,
                step=step,
                seconds=_written(child),
                size_bytes=_size_bytes(child),
                state=_state(child),
                verified=False,
                is_best=best is not None and best["step"] == step,
                figures=figures.get(step, {}) if step is not None else {},
            )
        )
    return entries


def _written(folder: Path) -> float:
    file = folder / METADATA_FILE
    return (file if file.is_file() else folder).stat().st_mtime


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _state(folder: Path) -> str:
    if ".damaged" in folder.name:
        return "set aside as damaged"
    if not folder.name.isdecimal():
        return "not finished" if "tmp" in folder.name else "no checkpoint"
    try:
        read_metadata(folder)
    except CheckpointError as error:
        return f"damaged: {error}"
    return "whole, not verified"


def verify(entry: Entry) -> Entry:
    """Reads every array of a step, its tokenizer too; the entry with what was found."""
    if entry.step is None:
        return entry
    try:
        metadata = read_metadata(entry.folder)
        count = 0
        for item, sums in metadata["fingerprints"].items():
            count += verify_item(entry.folder / item, sums)
        read_tokenizer(entry.folder, metadata)
    except CheckpointError as error:
        return dataclasses.replace(entry, state=f"damaged: {error}")
    return dataclasses.replace(entry, state=f"verified, {count} arrays", verified=True)


def prune(
    folder: Path, *, keep: int, keep_steps: set[int], damaged: bool, dry_run: bool
) -> list[Entry]:
    """Removes checkpoints; the newest, the best and the named ones stay.

    Args:
      folder: `checkpoints/`, claimed by the caller.
      keep: newest ones that stay.
      keep_steps: others that stay.
      damaged: those that were set aside go too.
      dry_run: remove nothing.

    Returns:
      What is removed, or would be.
    """
    steps, best = step_folders(folder), read_best(folder)
    figures = read_figures(folder)
    metric = best["metric"] if best else ""
    stay = kept(steps, figures, Keeping(newest=keep, best=1, metric=metric)) | keep_steps
    gone = [
        entry
        for entry in inventory(folder)
        if (entry.step is not None and entry.step not in stay)
        or (damaged and ".damaged" in entry.name)
    ]
    if dry_run:
        return gone
    remaining = {step: figures[step] for step in figures if step in stay}
    if remaining:
        write_figures(folder, stay, remaining, metric)
    for entry in gone:
        remove_step(entry.folder)
    return gone


def table(entries: Sequence[Entry]) -> str:
    """The entries in columns, for a person."""
    rows = [("step", "written", "size", "validation", "state")]
    for entry in entries:
        figures = (
            f"{name} {entry.figures[name]:.4g}"
            for name in METRICS
            if entry.figures.get(name) is not None
        )
        rows.append(
            (
                entry.name,
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.seconds)),
                in_words(entry.size_bytes),
                ", ".join(figures) or "-",
                entry.state + (", best" if entry.is_best else ""),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
