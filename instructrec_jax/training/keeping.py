"""Which checkpoints of a run are kept, and which is the best; no file but validation.json is read.

`checkpoints/validation.json` holds the validation figures of the steps that are there, and which of
them is best:

    {"figures": {"500": {"loss_per_token": 3.1, ...}, ...},
     "best": {"metric": "loss_per_token", "step": 500, "value": 3.1}}
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_jax.errors import CheckpointError
from instructrec_jax.evaluation.files import json_text, write_whole

# Figures of the validation that checkpoints can be compared by, and whether more is better.
METRICS: dict[str, bool] = {
    "loss_per_token": False,
    "loss_per_sequence": False,
    "accuracy": True,
}
VALIDATION_FILE = "validation.json"
_REMOVED = ".removed"

Figures = Mapping[int, Mapping[str, Any]]  # step -> name -> number, or None for none that is finite


@dataclass(frozen=True)
class Keeping:
    """How many checkpoints stay."""

    newest: int
    best: int = 0
    metric: str = ""  # of METRICS; "" where none is compared


def ranked(steps: Iterable[int], figures: Figures, metric: str) -> list[int]:
    """The steps that have a finite figure of that name, best first; of equals the earlier first."""
    if not metric:
        return []
    sign = -1.0 if METRICS[metric] else 1.0
    values = {step: figures.get(step, {}).get(metric) for step in steps}
    # A NaN compares as neither better nor worse: it takes no part.
    known = {step: v for step, v in values.items() if v is not None and math.isfinite(v)}
    return sorted(known, key=lambda step: (sign * known[step], step))


def kept(steps: Iterable[int], figures: Figures, keeping: Keeping) -> set[int]:
    """The steps that stay: the newest, and the best by the metric, which may be among them."""
    steps = sorted(steps)
    newest = steps[-keeping.newest :] if keeping.newest else []
    return {*newest, *ranked(steps, figures, keeping.metric)[: keeping.best]}


def read_figures(folder: Path) -> dict[int, dict[str, Any]]:
    """The figures of a `checkpoints/` folder; {} where the file is missing.

    Raises:
      CheckpointError: the file is damaged.
    """
    return {int(step): values for step, values in _read(folder)["figures"].items()}


def read_best(folder: Path) -> dict[str, Any] | None:
    """{"metric", "step", "value"} of a `checkpoints/` folder, or None where none is known.

    Raises:
      CheckpointError: the file is damaged.
    """
    return _read(folder)["best"]


def write_figures(folder: Path, steps: Iterable[int], figures: Figures, metric: str) -> None:
    """Replaces the file in one move.

    Args:
      folder: `checkpoints/`.
      steps: those that are there, out of which the best is taken.
      figures: of any steps.
      metric: what the best is best by; "" for none.
    """
    first = ranked(steps, figures, metric)[:1]
    best = [{"metric": metric, "step": step, "value": figures[step][metric]} for step in first]
    of_steps = {str(step): dict(values) for step, values in sorted(figures.items())}
    record = {"figures": of_steps, "best": best[0] if best else None}
    write_whole(folder / VALIDATION_FILE, json_text(record))


def step_folders(folder: Path) -> dict[int, Path]:
    """The steps in a `checkpoints/` folder, whole or not, in rising order."""
    if not folder.is_dir():
        return {}
    children = (child for child in folder.iterdir() if child.name.isdecimal())
    found = {int(child.name): child for child in children if child.is_dir()}
    return dict(sorted(found.items()))


def remove_step(folder: Path) -> None:
    """Removes a step so that a killed program never leaves a half one under its name."""
    away = folder.with_name(f"{folder.name}{_REMOVED}")
    shutil.rmtree(away, ignore_errors=True)
    folder.rename(away)
    shutil.rmtree(away)


def finish_removals(folder: Path) -> None:
    """Removes what a killed `remove_step` left."""
    for away in folder.glob(f"*{_REMOVED}"):
        shutil.rmtree(away, ignore_errors=True)


def _read(folder: Path) -> dict[str, Any]:
    file = folder / VALIDATION_FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if _is_whole(record):
            return record
        problem = "it holds something else"
    except (FileNotFoundError, NotADirectoryError):
        return {"figures": {}, "best": None}
    except (OSError, ValueError) as error:
        problem = str(error)
    # Without it, the best checkpoint would be removed as any other.
    raise CheckpointError(
        f"{file} is damaged: {problem}; mend it (the run's metrics.jsonl has the figures), or "
        "remove it, and then no checkpoint before counts as the best"
    )


def _is_whole(record: Any) -> bool:
    match record:
        case {"figures": dict(figures), "best": best}:
            of_steps = [key.isdecimal() and isinstance(of, dict) for key, of in figures.items()]
            numbers = [v for of in figures.values() if isinstance(of, dict) for v in of.values()]
        case _:
            return False
    match best:
        case None | {"metric": str(), "step": int()}:
            return all(of_steps) and all(isinstance(v, int | float | None) for v in numbers)
    return False
