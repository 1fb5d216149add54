"""What a run tells: progress on the terminal, metrics.jsonl, samples.jsonl and trackers."""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

from instructrec_jax.command_line import say
from instructrec_jax.evaluation.files import finite
from instructrec_jax.training.trackers import Tracker

# What a run appends to, and the names of `Reporter.event` with example ids.
_FILES = ("metrics", "samples", "nonfinite", "spikes")
# The parts of the time that are training: steps, and their waiting for data.
_TRAINING = ("data_wait",)
# Parts of the wall time, in words, in the order of the line at the end.
TIME_PARTS = {
    "step": "steps",
    "data_wait": "waiting for data",
    "start": "starting",
    "data": "preparing data",
    "state": "making or restoring the state",
    "compile": "compiling",
    "evaluate": "evaluating",
    "save": "saving",
    "profile": "profiling",
    "lost": "steps done again",
}


class Clock:
    """Wall time of the run, split by what it was spent on, in seconds."""

    def __init__(self, seconds_before: float = 0.0) -> None:
        """Starts now; `seconds_before` went into starting the program."""
        self.start = time.perf_counter() - seconds_before
        self.seconds: dict[str, float] = defaultdict(float, start=seconds_before)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time inside the block to `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def settle(self, name: str) -> None:
        """Adds the time since the start that nothing has measured to `name`."""
        self.seconds[name] += self.elapsed() - sum(self.seconds.values())

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start

    def training_seconds(self) -> float:
        """Seconds of steps and of their waiting for data."""
        others = (value for name, value in self.seconds.items() if name not in _TRAINING)
        return self.elapsed() - sum(others)

    def split(self) -> dict[str, float]:
        """Seconds by name; `step` is what no other name took."""
        known = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**known, "step": round(self.elapsed() - sum(self.seconds.values()), 3)}


class Reporter:
    """Writes the records of a run; only the first process of a run writes or prints anything."""

    def __init__(
        self,
        workdir: Path,
        *,
        steps: int,
        first_step: int,
        trackers: Sequence[Tracker] = (),
        is_main: bool,
    ) -> None:
        """Opens the files; records of steps after `first_step`, which will be run again, go.

        Args:
          workdir: run folder.
          steps: steps of the whole run.
          first_step: step that the run goes on from; 0 for a new one.
          trackers: where numbers go besides; closed with the reporter.
          is_main: whether this process writes.
        """
        self._is_main = is_main
        self._steps = steps
        self._progress: Progress | None = None
        self._trackers = tuple(trackers)
        self._evaluated: set[int] = set()
        # Time of former parts of the run whose steps are run again.
        self.lost_seconds = 0.0
        if not is_main:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        self.lost_seconds = lost_seconds(_records(workdir / "metrics.jsonl"), first_step)
        for name in _FILES:
            if damaged := _forget_after(workdir / f"{name}.jsonl", first_step):
                self.say(
                    f"WARNING: {workdir / name}.jsonl: damaged lines, which are dropped: {damaged}"
                )
        self._evaluated = {
            record["step"]
            for record in _records(workdir / "metrics.jsonl")
            if record.get("kind") == "validation"
        }
        self._files = {
            name: (workdir / f"{name}.jsonl").open("a", encoding="utf-8") for name in _FILES[:2]
        }
        self._workdir = workdir
        self.record("part", first_step, lost_seconds=round(self.lost_seconds, 3))
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
        """One line of metrics.jsonl; numbers go to the trackers as `kind/name`."""
        if not self._is_main:
            return
        self._append("metrics", finite({"kind": kind, "step": step, **values}))
        numbers = dict(_numbers(values, f"{kind}/"))
        if numbers:
            for tracker in self._trackers:
                tracker.log(numbers, step)

    def event(self, name: str, step: int, *, example_ids: Sequence[str], **values: float) -> None:
        """A step that somebody will want to look at: a line of metrics.jsonl, and one of NAME.jsonl
        that has the ids of the batch's examples too. `name`: "nonfinite" or "spikes"."""
        if not self._is_main:
            return
        self.record(name, step, **values)
        # JSON has no word for what is not finite, and here it matters which it was.
        words = {
            key: value if math.isfinite(value) else str(value) for key, value in values.items()
        }
        record = {"step": step, **words, "example_ids": list(example_ids)}
        with (self._workdir / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def sample(self, record: Mapping[str, Any]) -> None:
        """One line of samples.jsonl."""
        if self._is_main:
            self._append("samples", dict(record))

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        self._files[name].write(json.dumps(record, ensure_ascii=False) + "\n")
        self._files[name].flush()

    def has_validation(self, step: int) -> bool:
        """Whether the run was evaluated at a step before this process began."""
        return step in self._evaluated

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def step_line(self, step: int, values: Mapping[str, float], seconds_left: float) -> None:
        """The figures of a step, in the progress bar or on a line of their own."""
        if "mfu" in values:
            use = f"MFU {values['mfu']:.1%}"
        else:
            use = f"{short_number(values['flops_per_second'])}FLOP/s"
        if self._progress is not None:
            figures = (
                f"loss {values['loss']:.3f}, {values['loss_per_token']:.3f} a token · "
                f"{values['tokens_per_second']:,.0f} real tokens/s · {use}"
            )
            self._progress.update(self._task, completed=step, figures=figures)
            return
        wait = values["data_wait_seconds"] / max(values["step_seconds"], 1e-9)
        self.say(
            f"step {step}/{self._steps}  loss {values['loss']:.4f}  "
            f"a token {values['loss_per_token']:.4f}  learning rate {values['learning_rate']:.2e}  "
            f"gradient norm {values['gradient_norm']:.3f}  "
            f"real tokens/s {values['tokens_per_second']:,.0f}  {use}  data wait {wait:.1%}  "
            f"ETA {duration(seconds_left)}"
        )

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        if not self._is_main:
            return
        if self._progress is not None:
            self._progress.stop()
        for tracker in self._trackers:
            tracker.close()
        for file in self._files.values():
            file.close()


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


def lost_seconds(records: Sequence[Mapping[str, Any]], first_step: int) -> float:
    """Time that a killed run spent after the checkpoint at `first_step`, as far as its lines tell.

    `records` are all lines of its metrics.jsonl. Each process begins with a line "part"; what it
    saved last by `first_step` tells how much of its time is kept.
    """
    lost = 0.0
    last = kept = 0.0
    for record in [*records, {"kind": "part", "step": first_step}]:
        told = record.get("seconds", 0.0)
        parts = told.values() if isinstance(told, Mapping) else [told]
        seconds = sum(part for part in parts if isinstance(part, int | float))
        if record.get("kind") == "part":
            lost += last - kept
            last = kept = 0.0
            if record["step"] > first_step:
                lost += record.get("lost_seconds", 0.0)
        last = max(last, seconds)
        if record.get("kind") == "time" and 0 < record["step"] <= first_step:
            kept = last
    return lost


def time_line(seconds: Mapping[str, float]) -> str:
    """Where the time went: "time 1:02:05: steps 91.0%, compiling 4.2%, ..."."""
    total = max(sum(seconds.values()), 1e-9)
    names = [*TIME_PARTS, *(name for name in seconds if name not in TIME_PARTS)]
    parts = (
        f"{TIME_PARTS.get(name, name)} {seconds[name] / total:.1%}"
        for name in names
        if seconds.get(name, 0.0) >= 0.0005 * total
    )
    return f"time {duration(total)}: {', '.join(parts)}"


def short_number(value: float) -> str:
    """12.3e9 -> "12.3 G"."""
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} P"


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


def _records(file: Path) -> list[dict[str, Any]]:
    """What the whole lines of a file of the run hold; none where there is no file."""
    return [record for _, record in _whole_lines(file) if record is not None]


def _whole_lines(file: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Lines and what they hold, None where it is no record of a step.

    Without the half line that a killed run may leave.
    """
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            known = isinstance(record, dict) and type(record.get("step")) is int
            yield line, record if known else None


def _forget_after(file: Path, step: int) -> int:
    """Keeps a file's whole lines up to a step; how many were damaged, and go too."""
    if not file.exists():
        return 0
    lines = list(_whole_lines(file))
    damaged = sum(record is None for _, record in lines)
    kept = [line for line, record in lines if record and record["step"] <= step and step > 0]
    if not kept and file.stem not in _FILES[:2]:
        file.unlink()
        return damaged
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(b"".join(kept))
    os.replace(partial, file)
    return damaged
