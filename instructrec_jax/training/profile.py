"""A trace of some steps, for TensorBoard's profiler, Perfetto or XProf."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from instructrec_jax.training.reporting import Clock


class ProfileWindow:
    """Traces `steps` steps from `start` on into a folder; no steps, no trace."""

    def __init__(
        self, folder: Path, *, start: int, steps: int, clock: Clock, say: Callable[[str], None]
    ) -> None:
        """Nothing is traced before `before_step(start)`."""
        self._folder = folder
        self._first, self._last = start, start + steps - 1
        self._clock = clock
        self._say = say
        self._is_on = False

    def before_step(self, step: int) -> None:
        """Call it before the batch of a step is drawn."""
        if self._first <= step <= self._last and not self._is_on:
            with self._clock.measure("profile"):
                jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def after_step(self, step: int, figures: Any) -> None:
        """Call it with what a step gave, which is waited for where the trace ends."""
        if self._is_on and step >= self._last:
            jax.block_until_ready(figures)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still going on."""
        if self._is_on:
            # Writing a long trace takes longer than its steps did.
            with self._clock.measure("profile"):
                jax.profiler.stop_trace()
            self._is_on = False
            self._say(f"the profile is in {self._folder}; see docs/training.md on how to open it")
