"""config.json of a run folder, and what it was in the parts of the run before."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instructrec_jax.evaluation.run_log import config_changes, flatten
from instructrec_jax.training.reporting import write_json

# Where the run's files lie, and what is told: no change of what is trained.
_UNTOLD = ("workdir",)


def keep_config(
    workdir: Path, record: Mapping[str, Any], *, first_step: int, say: Callable[[str], None]
) -> None:
    """Writes config.json; a different one from before is told and kept as `config-STEP.json`.

    Args:
      workdir: run folder.
      record: of `configuration.config_record`.
      first_step: step that the run goes on from: the former config's last. 0 = a new run, whose
        folder forgets what an attempt before may have left.
      say: told of each change.
    """
    file = workdir / "config.json"
    if first_step == 0:
        for old in workdir.glob("config-*.json"):
            old.unlink()
    elif file.exists():
        former = _former(file, say)
        values = flatten(former["config"] if former else record["config"])
        changes = [
            (key, old, new)
            for key, old, new in config_changes(values, flatten(record["config"]))
            if key not in _UNTOLD
        ]
        for key, old, new in changes:
            say(f"changed since the part before: {key} {old!r} -> {new!r}")
        kept = workdir / f"config-{first_step}.json"
        # Of several attempts to go on from a step, the first found the config that led there.
        if changes and not kept.exists():
            # Beside the other, which stays until the new one takes its place.
            write_json(kept, former)
    write_json(file, record)


def _former(file: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    try:
        former = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(former["config"], dict):
            return former
        problem = "it holds something else"
    except (ValueError, KeyError, TypeError) as error:
        problem = repr(error) if isinstance(error, KeyError) else str(error)
    away = file.with_name(f"{file.name}.damaged")
    file.replace(away)
    say(
        f"WARNING: {file} is damaged: {problem}; it is kept as {away.name}, and what changed since "
        "the part before cannot be told"
    )
    return None
