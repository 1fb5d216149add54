"""SIGTERM and SIGINT save the run and end it; a second signal ends it now.

Python runs a signal's handler between two lines of Python, and compiling or waiting for a device
may be minutes inside one of them. A thread therefore hears of each signal too: it ends the program
where nothing is to be saved, or where a second signal came.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from instructrec_jax.errors import Preempted

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
# One key press may reach a process twice, from the terminal and from a script that started it.
_SAME_SIGNAL_SECONDS = 1.0
# What the main thread gets to end by itself before the first step.
_GRACE_SECONDS = 3.0


class _Interrupted(KeyboardInterrupt):
    """Raised by the signal's handler, wherever the program is.

    A library that takes every Exception for a failure of its own lets it pass: a checkpoint whose
    reading was interrupted is not a damaged one.
    """


def _swallowed_in(frame: FrameType | None) -> bool:
    """Whether Python drops what is raised there, with a traceback: in JAX's hook to the collector.

    The thread ends the program then.
    """
    while frame is not None:
        if frame.f_code.co_name == "_xla_gc_callback":
            return True
        frame = frame.f_back
    return False


class StopRequest:
    """Whether this process was asked to stop. All processes of a run learn of it through a step."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.received = ""
        self.has_state = False  # from the first step on there is something to save
        self._interrupted = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over both signals inside the block; the main thread calls it.

        Raises:
          Preempted: a signal came before there was a state to save.
        """
        ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        threading.Thread(target=self._listen, args=(ear,), daemon=True).start()
        before = {number: signal.signal(number, self._on_signal) for number in _NUMBERS}
        wakeup_before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        try:
            yield
        except _Interrupted:
            raise Preempted(self._words_without_state()) from None
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(mouth)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        # Once: a key press that comes twice must not disturb the way out.
        if not self.has_state and not self._interrupted and not _swallowed_in(frame):
            self._interrupted = True
            raise _Interrupted

    def _listen(self, ear: int) -> None:
        """The thread: one byte a signal, until the pipe is closed."""
        first = 0.0
        with os.fdopen(ear, "rb", buffering=0) as signals:
            while byte := signals.read(1):
                number, now = byte[0], time.monotonic()
                if number not in _NUMBERS:
                    continue
                if not first:
                    first = now
                    self._first(number)
                elif now - first > _SAME_SIGNAL_SECONDS:
                    os._exit(128 + number)

    def _first(self, number: int) -> None:
        self.received = self.received or signal.Signals(number).name
        if self.has_state:
            # Not `print`, which may be at work in the code that the signal interrupts.
            words = f"{self.received}: the run is saved and ends; once more ends it now\n"
            os.write(2, words.encode())
        else:
            threading.Thread(target=self._end_after_grace, daemon=True).start()

    def _end_after_grace(self) -> None:
        time.sleep(_GRACE_SECONDS)
        if not self.has_state:
            os.write(2, f"error: {self._words_without_state()}\n".encode())
            os._exit(Preempted.exit_code)

    def _words_without_state(self) -> str:
        return (
            f"stopped by {self.received} before a step was taken: there is nothing new to save; "
            "the same command goes on"
        )
