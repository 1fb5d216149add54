"""What a training run wrote about itself, read back for the report and the notebook.

Reading never fails on a run that was killed: a line cut short is counted and left out.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Kinds of lines in metrics.jsonl that tell of a step out of the row, and what they are called.
EVENTS = {"nonfinite": "not finite", "spikes": "loss spike"}


@dataclass(frozen=True)
class ConfigChange:
    """A value that changed when the run went on from `step`; None = the key was not there."""

    step: int
    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class RunLog:
    """The contents of a run folder; whatever the run did not write is empty.

    `train` and `validation` are lines of metrics.jsonl in order of step, one a step (after a
    resume the later line goes before the earlier one); `packing` is the newest line of that kind,
    `seconds` the split of wall time over all parts of the run, `events` the lines of non-finite
    steps and loss spikes, `changes` what differs between the configs of its parts. `config` and
    `environment` are flat: {"train.steps": 10, ...}.
    """

    name: str
    config: dict[str, Any]
    origins: dict[str, str]
    environment: dict[str, Any]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    packing: dict[str, Any]
    seconds: dict[str, float]
    events: list[dict[str, Any]]
    changes: list[ConfigChange]
    samples: list[dict[str, Any]]
    unreadable_lines: int


def find_run_folder(path: str | Path) -> Path | None:
    """The run folder that a checkpoint path lies in (`RUN`, `RUN/checkpoints`, `.../STEP`)."""
    start = Path(path).resolve()
    for folder in (start, start.parent):
        if folder.name == "checkpoints":
            start = folder.parent
            break
    # A Hugging Face folder has a config.json too.
    has_config = (start / "config.json").is_file() and (start / "checkpoints").is_dir()
    is_run = (start / "metrics.jsonl").is_file() or has_config
    return start if is_run else None


def read_run(folder: Path) -> RunLog:
    """Everything that the run folder tells; missing files leave their part empty."""
    resolved = _read_object(folder / "config.json")
    lines, unreadable = _read_lines(folder / "metrics.jsonl")
    samples, unreadable_samples = _read_lines(folder / "samples.jsonl")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        kinds.setdefault(str(line.get("kind")), []).append(line)
    return RunLog(
        name=folder.resolve().name,
        config=flatten(resolved.get("config", {})),
        origins={key: str(origin) for key, origin in resolved.get("origins", {}).items()},
        environment=flatten(_read_object(folder / "environment.json")),
        train=_one_a_step(kinds.get("train", [])),
        validation=_one_a_step(kinds.get("validation", [])),
        packing=kinds.get("packing", [{}])[-1],
        seconds=_all_seconds(kinds),
        events=[line for line in lines if line.get("kind") in EVENTS],
        changes=_changes(folder),
        samples=samples,
        unreadable_lines=unreadable + unreadable_samples,
    )


def series(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the lines that hold a finite number under `key`."""
    points = []
    for line in lines:
        value = line.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((float(line.get("step", 0)), float(value)))
    return points


def by_task(lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """{task: (step, loss a token)} of the lines that have `tasks`."""
    points: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        tasks = line.get("tasks")
        for task, loss in tasks.items() if isinstance(tasks, dict) else ():
            if isinstance(loss, int | float) and math.isfinite(loss):
                points.setdefault(task, []).append((float(line.get("step", 0)), float(loss)))
    return points


def _all_seconds(kinds: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The split of wall time, `lost` among it: steps that were done again after a resume."""
    seconds = total_seconds([line.get("seconds", {}) for line in kinds.get("time", [])])
    lost = sum(line.get("lost_seconds", 0.0) for line in kinds.get("part", []))
    return {**seconds, "lost": lost} if lost else seconds


def _changes(folder: Path) -> list[ConfigChange]:
    """What differs between config-STEP.json, each the config that led to STEP, and the next one."""
    steps = sorted(
        int(path.stem.removeprefix("config-"))
        for path in folder.glob("config-*.json")
        if path.stem.removeprefix("config-").isdecimal()
    )
    files = [*(f"config-{step}.json" for step in steps), "config.json"]
    configs = [flatten(_read_object(folder / name).get("config", {})) for name in files]
    return [
        ConfigChange(step, key, old, new)
        for step, (before, after) in zip(steps, itertools.pairwise(configs), strict=True)
        for key, old, new in config_changes(before, after)
    ]


def total_seconds(splits: list[dict[str, float]]) -> dict[str, float]:
    """Sums of wall time over the parts of a run.

    A split grows within one process and starts again after a resume: where a figure falls, the
    split before was the last one of its process.
    """
    total: dict[str, float] = {}
    # After the last split come zeros, so that it counts as the last one of its process.
    for split, following in itertools.pairwise([*splits, {}]):
        is_last = any(following.get(key, 0.0) < value for key, value in split.items())
        if is_last:
            for key, value in split.items():
                total[key] = total.get(key, 0.0) + value
    return total


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one level, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of each difference of two flat configs; None = not there."""
    return [
        (key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _one_a_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    newest = {line.get("step", 0): line for line in lines}
    return [newest[step] for step in sorted(newest)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of a file of JSON lines, and how many lines were none."""
    if not path.is_file():
        return [], 0
    records, unreadable = [], 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                records.append(record)
            else:
                unreadable += bool(line.strip())
    return records, unreadable
