"""Processes that work through the tasks of a build.

The workers are plain processes that talk over pipes: a fork would copy the threads of whoever
builds (train.py has JAX's), and multiprocessing's other methods import their main module again.
"""

import contextlib
import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.flow import Run
from instructrec_jax.instructions.recipe import Recipe

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_PROGRAM = "from instructrec_jax.instructions.workers import serve; serve()"
# Tasks on their way to each process while the results before them are taken.
_WINDOW = 4
# Objects made between two looks for circles of objects that nothing else holds.
_ALLOCATIONS = 100_000
# How a process ends that the kernel killed, most often for want of memory.
_KILLED = -signal.SIGKILL
# A task: what `perform(run)` of it gives goes back to the parent. Both are pickled.
Task = Any


class StoppedError(DataError):
    """A build that cannot go on as things are; what it has done is kept for another run."""


@contextlib.contextmanager
def stopped_in_a_line(folder: Path) -> Iterator[None]:
    """Tells what stops a build in the block for want of memory, of room in `folder` or of a file.

    Raises:
        StoppedError: in place of a MemoryError or an OSError.
    """
    try:
        yield
    except MemoryError as error:
        raise StoppedError(
            "memory ran out; what is done is kept: name fewer build.processes and run the command "
            "again"
        ) from error
    except OSError as error:
        raise StoppedError(
            f"{error.filename or folder}: {error.strerror or error}; what is done is kept: run the "
            "same command again when this is mended"
        ) from error


class Workers:
    """Processes that perform tasks; a context manager.

    `processes` = 1 works in this process, 0 takes one process a core.
    """

    def __init__(self, recipe: Recipe, *, processes: int) -> None:
        self._recipe = recipe
        self._count = processes or os.cpu_count() or 1
        self._run = Run(recipe)
        self._processes: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()

    def perform(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        """Yield each task and what it gives, in order; tasks are taken as they are needed."""
        if self._count == 1:
            for task in tasks:
                yield task, task.perform(self._run)
        else:
            yield from self._spread(tasks)

    def _spread(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Any]]:
        if not self._processes:
            self._processes = [_Worker(self._recipe) for _ in range(self._count)]
            for worker in self._processes:
                self._idle.put(worker)
        waiting: deque[tuple[Task, Future[Any]]] = deque()
        with ThreadPoolExecutor(self._count) as threads:
            try:
                for task in tasks:
                    waiting.append((task, threads.submit(self._ask, task)))
                    if len(waiting) >= _WINDOW * self._count:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def _ask(self, task: Task) -> Any:
        worker = self._idle.get()
        try:
            return worker.ask(task)
        finally:
            self._idle.put(worker)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._run.close()
        for worker in self._processes:
            worker.close()


class _Worker:
    """One process; asked one task at a time."""

    def __init__(self, recipe: Recipe) -> None:
        path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        _write_frame(self._to, recipe)

    def ask(self, task: Task) -> Any:
        """What the task gives; raises what the worker raised.

        Raises:
            StoppedError: the worker died.
        """
        try:
            _write_frame(self._to, task)
            answer = _read_frame(self._from)
        except BrokenPipeError:
            answer = None
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            code = self._process.wait()
            killed = ", perhaps for want of memory: name fewer build.processes" * (code == _KILLED)
            raise StoppedError(
                f"a process of the build ended by itself with status {code}{killed}; what is done "
                "is kept: run the same command again"
            )
        return answer

    def close(self) -> None:
        """Ask the process to end by closing its input, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._process.wait()


def serve() -> None:
    """The worker's side: perform the tasks that come in until the input ends."""
    # Ctrl-C reaches the whole group; the parent answers it and closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not come between the frames.
    os.dup2(2, 1)
    recipe = _read_frame(questions)
    if recipe is None:
        return
    # Records hold no circles: looking for them at each few hundred takes a twentieth of the time.
    gc.set_threshold(_ALLOCATIONS)
    run = Run(recipe)
    try:
        while (task := _read_frame(questions)) is not None:
            _write_frame(answers, _answer(task.perform, run))
    finally:
        run.close()


def _answer(perform: Callable[[Run], Any], run: Run) -> Any:
    try:
        return perform(run)
    except Exception as error:
        error.add_note("in a worker process")
        return error


def _write_frame(stream: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def _read_frame(stream: IO[bytes]) -> Any:
    """The next value, or None at the end of the stream."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    data = stream.read(struct.unpack("<Q", header)[0])
    return pickle.loads(data) if data else None
