"""What the figures of many steps say together: rates, loss by task, and losses out of the row."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructrec_jax.training.reporting import Clock

# Losses that a new one is compared with, and how many of them there must be.
_REMEMBERED, _ENOUGH = 100, 20
# The median absolute deviation of a normal distribution, as a share of its standard deviation.
_MAD = 0.6745


class Window:
    """Sums over the steps since the last line of metrics."""

    def __init__(
        self, clock: Clock, *, tasks: Sequence[str], step_flops: float, peak_flops: float | None
    ) -> None:
        """Empty.

        Args:
          clock: the run's.
          tasks: names in the order of the figures `task_nll` and `task_tokens`.
          step_flops: operations of a step, see flops.py.
          peak_flops: what all devices can do in a second; None where it is not known.
        """
        self._clock = clock
        self._tasks = tuple(tasks)
        self._step_flops = step_flops
        self._peak_flops = peak_flops
        self.restart()

    def restart(self) -> None:
        """Forgets the steps so far."""
        self._steps = 0
        self._tokens = 0.0
        self._sequences = 0.0
        self._task_sums: dict[str, np.ndarray] = {}
        self._began = self._clock.training_seconds()
        self._waited = self._clock.seconds["data_wait"]

    def add(self, figures: Mapping[str, Any]) -> None:
        """The figures of a step, see `step.make_train_step`."""
        self._steps += 1
        self._tokens += figures["input_tokens"] + figures["target_tokens"]
        self._sequences += figures["sequences"]
        # A non-finite step would hide the others.
        if figures["applied"]:
            add_task_sums(self._task_sums, figures)

    def rates(self) -> dict[str, float]:
        """Rates of the time that training took, data wait included; `mfu` where it is known."""
        seconds = max(self._clock.training_seconds() - self._began, 1e-9)
        steps = max(self._steps, 1)
        flops = self._step_flops * self._steps / seconds
        rates = {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "sequences_per_second": round(self._sequences / seconds, 2),
            "step_seconds": round(seconds / steps, 5),
            "data_wait_seconds": round(
                (self._clock.seconds["data_wait"] - self._waited) / steps, 5
            ),
            "flops_per_second": float(f"{flops:.4g}"),
        }
        if self._peak_flops is not None:
            rates["mfu"] = round(flops / self._peak_flops, 4)
        return rates

    def task_losses(self) -> dict[str, float]:
        """NLL a target token of each task that the steps had, by name."""
        return task_losses(self._task_sums, self._tasks)


def add_task_sums(sums: dict[str, np.ndarray], figures: Mapping[str, Any]) -> None:
    """Adds `task_nll` and `task_tokens` [tasks] to sums that hold them or are empty yet."""
    for name in ("task_nll", "task_tokens"):
        if name in figures:
            sums[name] = sums.get(name, 0.0) + np.asarray(figures[name], np.float64)


def task_losses(sums: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, float]:
    """{task: NLL a target token} of the tasks with a token, from the sums of `add_task_sums`."""
    if not sums:
        return {}
    pairs = zip(tasks, sums["task_nll"], sums["task_tokens"], strict=True)
    return {task: round(float(nll / tokens), 6) for task, nll, tokens in pairs if tokens > 0}


class SpikeDetector:
    """Finds losses far above those of the steps before, by median and median absolute deviation.

    Only the steps of this process are remembered: after a resume it takes 20 of them to judge.
    """

    def __init__(self, deviations: float) -> None:
        """`deviations`: standard deviations above the median that count as a spike; 0 = none do."""
        self._limit = deviations
        self._losses: deque[float] = deque(maxlen=_REMEMBERED)

    def deviations(self, loss: float) -> float | None:
        """How far above the others a finite loss is, where that is a spike; else None.

        A spike is not remembered, so that it does not hide the next one.
        """
        if not self._limit:
            return None
        if len(self._losses) >= _ENOUGH:
            median = statistics.median(self._losses)
            spread = statistics.median(abs(each - median) for each in self._losses) / _MAD
            # Losses that hardly differ, as of one batch over and over, make no spike of a ripple.
            spread = max(spread, 1e-3 * abs(median), 1e-9)
            if loss > median + self._limit * spread:
                return (loss - median) / spread
        self._losses.append(loss)
        return None
