"""A step that never ends: the stacks of all threads are written, to show where it hangs."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instructrec_jax.errors import Preempted


class Watchdog:
    """A thread that looks whether steps end in time.

    A hang is told once: on stderr, and in `FOLDER/hung-STEP.txt` with the stacks of all threads.
    """

    def __init__(self, folder: Path, *, seconds: float, ends_run: bool, process: int = 0) -> None:
        """Watches nothing until `beat` is called for the first time.

        Args:
          folder: run folder.
          seconds: time that a step may take; 0 = any.
          ends_run: end the program with exit code 75 (it can go on from its last checkpoint).
          process: number of this process, part of the file's name after the first.
        """
        self._folder = folder
        self._seconds = seconds
        self._ends_run = ends_run
        self._process = process
        self._step = 0
        self._deadline = float("inf")
        self._pauses = 0
        self._changed = threading.Condition()
        self._closed = False
        if seconds > 0:
            threading.Thread(target=self._watch, daemon=True).start()

    def beat(self, step: int) -> None:
        """A step has ended: the next one has its time from now."""
        with self._changed:
            self._step = step
            self._deadline = time.monotonic() + self._seconds
            self._changed.notify()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside the block is no step, and may take any time."""
        with self._changed:
            self._pauses += 1
        try:
            yield
        finally:
            # In one: a deadline that passed in the pause is none.
            with self._changed:
                self._pauses -= 1
                self.beat(self._step)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                left = self._deadline - time.monotonic()
                if left > 0 or self._pauses:
                    # A pause ends with a beat, which wakes this thread.
                    self._changed.wait(None if self._pauses else min(left, threading.TIMEOUT_MAX))
                    continue
                self._deadline = float("inf")
                step = self._step
            self._tell(step)

    def _tell(self, last_step: int) -> None:
        suffix = f"-{self._process}" if self._process else ""
        file = self._folder / f"hung-{last_step + 1}{suffix}.txt"
        words = (
            f"WARNING: step {last_step + 1} has not ended after {self._seconds:g} seconds "
            f"(train.hung_step_seconds); the stacks of all threads are in {file}\n"
        )
        sys.stderr.write(words)
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        try:
            with file.open("w", encoding="utf-8") as stream:
                stream.write(words)
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)
        except OSError as error:
            sys.stderr.write(f"WARNING: {file} cannot be written: {error.strerror}\n")
        if self._ends_run:
            sys.stderr.write(
                "error: the hung run ends (train.hung_step_exit); the same command goes on from "
                "its last checkpoint\n"
            )
            sys.stderr.flush()
            os._exit(Preempted.exit_code)
