"""How far decoding is: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable

import rich.progress
from rich.console import Console

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Called with the number of lines done; leave it as a context manager, or close it."""

    def __init__(self, tell: Callable[[str], None], total: int | None = None) -> None:
        """`total` is the number of lines, where it is known."""
        self._tell = tell
        self._total = total
        self._started = self._last = time.monotonic()
        self._bar: rich.progress.Progress | None = None
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.SpinnerColumn(),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[told]}"),
                rich.progress.TimeElapsedColumn(),
                *([] if total is None else [rich.progress.TimeRemainingColumn()]),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, told="")
            self._bar.start()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        of = "" if self._total is None else f" of {self._total:,}"
        told = f"{done:,}{of} lines, {done / max(now - self._started, 1e-9):.1f} a second"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, told=told)
        elif now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._tell(told)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
