"""What a run tells: progress on the terminal, metrics.jsonl, TensorBoard and samples.jsonl."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from tensorboardX import SummaryWriter

from instructrec_jax.command_line import say
from instructrec_jax.evaluation.files import finite


class Clock:
    """Wall time of the run, split by what it was spent on, in seconds."""

    def __init__(self) -> None:
        """Starts now."""
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time inside the block to `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def split(self) -> dict[str, float]:
        """Seconds by name; `step` is what no other name took."""
        known = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**known, "step": round(self.elapsed() - sum(self.seconds.values()), 3)}


class Reporter:
    """Writes the records of a run; only the first process of a run writes or prints anything."""

    def __init__(
        self, workdir: Path, *, steps: int, first_step: int, tensorboard: bool, is_main: bool
    ) -> None:
        """Opens the files; records of steps after `first_step`, which will be run again, go.

        Args:
          workdir: run folder.
          steps: steps of the whole run.
          first_step: step that the run goes on from; 0 for a new one.
          tensorboard: write TensorBoard events as well.
          is_main: whether this process writes.
        """
        self._is_main = is_main
        self._steps = steps
        self._progress: Progress | None = None
        self._summary: SummaryWriter | None = None
        if not is_main:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "samples.jsonl"):
            _forget_after(workdir / name, first_step)
        self._metrics_file = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        self._samples_file = (workdir / "samples.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            self._summary = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[figures]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task("", total=steps, completed=first_step, figures="")

    def begin(self) -> None:
        """Shows the progress bar from now on, where there is a terminal."""
        if self._progress is not None:
            self._progress.start()

    def say(self, text: str) -> None:
        """One line for the person, above the progress bar."""
        if not self._is_main:
            return
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)

    def record(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; numbers go to TensorBoard as `kind/name`."""
        if not self._is_main:
            return
        record = finite({"kind": kind, "step": step, **values})
        self._metrics_file.write(json.dumps(record) + "\n")
        self._metrics_file.flush()
        if self._summary is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._summary.add_scalar(f"{kind}/{name}", value, step)

    def sample(self, record: Mapping[str, Any]) -> None:
        """One line of samples.jsonl."""
        if self._is_main:
            self._samples_file.write(json.dumps(dict(record), ensure_ascii=False) + "\n")
            self._samples_file.flush()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def step_line(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        """The figures of a step, in the progress bar or on a line of their own."""
        if self._progress is not None:
            figures = (
                f"loss {values['loss']:.3f}, {values['loss_per_token']:.3f} a token · "
                f"{values['tokens_per_second']:,.0f} real tokens/s"
            )
            self._progress.update(self._task, completed=step, figures=figures)
            return
        wait = values["data_wait_seconds"] / max(values["step_seconds"], 1e-9)
        self.say(
            f"step {step}/{self._steps}  loss {values['loss']:.4f}  "
            f"a token {values['loss_per_token']:.4f}  learning rate {values['learning_rate']:.2e}  "
            f"gradient norm {values['gradient_norm']:.3f}  "
            f"real tokens/s {values['tokens_per_second']:,.0f}  data wait {wait:.1%}  "
            f"ETA {duration(seconds_left)}"
        )

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        if not self._is_main:
            return
        if self._progress is not None:
            self._progress.stop()
        if self._summary is not None:
            self._summary.close()
        self._metrics_file.close()
        self._samples_file.close()


def duration(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def write_json(file: Path, value: Any) -> None:
    """Replaces a JSON file in one move, so that a killed run leaves the old or the new one."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _forget_after(file: Path, step: int) -> None:
    """Keeps a file's lines up to a step, without the half line that a killed run may leave."""
    if not file.exists():
        return
    kept = []
    with file.open("rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if line.endswith(b"\n") and record["step"] <= step and step > 0:
                kept.append(line)
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(b"".join(kept))
    os.replace(partial, file)
