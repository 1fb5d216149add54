"""SIGTERM and SIGINT save the run and end it at the next step; a second signal ends it now."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from instructrec_jax.errors import Preempted

# One key press may reach a process twice, from the terminal and from a script that started it.
_SAME_SIGNAL_SECONDS = 1.0


class StopRequest:
    """Whether this process was asked to stop. All processes of a run learn of it through a step."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.received = ""
        self.has_state = False  # from the first step on there is something to save
        self._time = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over both signals inside the block.

        Raises:
          Preempted: a signal came before there was a state to save.
        """
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received:
            if time.monotonic() - self._time > _SAME_SIGNAL_SECONDS:
                os._exit(128 + number)
            return
        self.received, self._time = name, time.monotonic()
        if not self.has_state:
            raise Preempted(f"stopped by {name} before the first step: nothing was to be saved")
        # Not `print`, which may be at work in the code that the signal interrupts.
        os.write(2, f"{name}: the run is saved after this step; once more ends it now\n".encode())
