"""SIGTERM and SIGINT save the run and end it at the next step; a second signal ends it now."""

import os
import signal
from types import FrameType


class StopRequest:
    """Set by the first SIGTERM or SIGINT. All processes of a run learn of it through a step."""

    def __init__(self) -> None:
        """Takes over both signals."""
        self.received = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = signal.Signals(number).name
