"""Where figures of a run go besides metrics.jsonl: one entry a tracker."""

import importlib.util
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_jax.errors import ConfigError

_PROJECT = "instructrec_jax"


@dataclass(frozen=True)
class Tracker:
    """An open tracker."""

    log: Callable[[Mapping[str, float], int], None]  # {"train/loss": 1.5, ...}, step
    close: Callable[[], None]


def _tensorboard(workdir: Path, config: Mapping[str, Any], first_step: int) -> Tracker:
    # tensorboardX loads torch where that is installed: two seconds.
    from tensorboardX import SummaryWriter

    # Events after the step that the run goes on from are of steps that are done again.
    writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker(log, writer.close)


def _wandb(workdir: Path, config: Mapping[str, Any], first_step: int) -> Tracker:
    import wandb

    # The run folder keeps the id, so that a run that goes on is one run there too.
    file = workdir / "wandb_id.txt"
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n")
    run = wandb.init(
        project=_PROJECT,
        name=workdir.name,
        dir=str(workdir),
        id=file.read_text().strip(),
        resume="allow",
        config=dict(config),
    )
    # A step of its own: wandb's counter refuses those that are done again after a resume.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")

    def log(values: Mapping[str, float], step: int) -> None:
        run.log({**values, "step": step})

    return Tracker(log, run.finish)


def _trackio(workdir: Path, config: Mapping[str, Any], first_step: int) -> Tracker:
    import trackio

    run = trackio.init(
        project=_PROJECT, name=workdir.name, config=dict(config), resume="allow", embed=False
    )

    def log(values: Mapping[str, float], step: int) -> None:
        run.log(dict(values), step=step)

    return Tracker(log, trackio.finish)


# Name -> (the package that it needs, how it is opened: run folder, flat config, first step).
TRACKERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any], int], Tracker]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
}


def tracker_problem(name: str) -> str:
    """What is missing for a tracker of the table, or an empty string."""
    package, _ = TRACKERS[name]
    if importlib.util.find_spec(package) is not None:
        return ""
    return (
        f"train.trackers={name}: the package {package} is not installed; "
        f"pip install 'instructrec_jax[{name}]'"
    )


def open_trackers(
    names: tuple[str, ...], *, workdir: Path, config: Mapping[str, Any], first_step: int
) -> list[Tracker]:
    """The trackers of these names; the config is flat, the step the one that the run is at.

    Raises:
      ConfigError: one of them cannot be opened.
    """
    trackers = []
    for name in names:
        try:
            trackers.append(TRACKERS[name][1](workdir, config, first_step))
        except Exception as error:
            # No key, no network, another version: each has errors of its own.
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(f"train.trackers={name} cannot be opened: {words[0]}") from error
    return trackers
