"""Constructing in several processes, in a fixed order.

The workers are plain processes that talk over pipes: a fork would copy the threads of whoever
builds (train.py has JAX's), and multiprocessing's other methods import their main module again.
"""

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from instructrec_jax.instructions.construct import DocumentDrafts, construct_unit
from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.execution import Sandbox
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import Unit

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_PROGRAM = "from instructrec_jax.instructions.workers import serve; serve()"
# Units on their way to each process while the results before them are taken.
_WINDOW = 8
_Result = list[DocumentDrafts]


class Workers:
    """Processes that construct units; a context manager.

    `processes` = 1 works in this process, 0 takes one process a core.
    """

    def __init__(self, recipe: Recipe, *, processes: int) -> None:
        self._recipe = recipe
        self._count = processes or os.cpu_count() or 1
        self._sandbox = sandbox_for(recipe)
        self._processes: list[_Worker] = []
        self._idle: SimpleQueue[_Worker] = SimpleQueue()

    def construct(self, source: str, units: list[Unit]) -> Iterator[_Result]:
        """Yield the documents of a corpus unit by unit, up to the recipe's bound on documents."""
        bound = self._recipe.max_documents_per_source
        count = 0
        results = self._here(source, units) if self._count == 1 else self._spread(source, units)
        for documents in results:
            kept = documents[: bound - count] if bound else documents
            count += len(kept)
            yield kept
            if bound and count >= bound:
                break

    def _here(self, source: str, units: list[Unit]) -> Iterator[_Result]:
        context = Context(seed=self._recipe.seed, sandbox=self._sandbox)
        for unit in units:
            yield construct_unit(source, unit, recipe=self._recipe, context=context)

    def _spread(self, source: str, units: list[Unit]) -> Iterator[_Result]:
        if not self._processes:
            self._processes = [_Worker(self._recipe) for _ in range(self._count)]
            for worker in self._processes:
                self._idle.put(worker)
        waiting: deque[Future[_Result]] = deque()
        with ThreadPoolExecutor(self._count) as threads:
            try:
                for unit in units:
                    waiting.append(threads.submit(self._ask, source, unit))
                    if len(waiting) >= _WINDOW * self._count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _ask(self, source: str, unit: Unit) -> _Result:
        worker = self._idle.get()
        try:
            return worker.ask(source, unit)
        finally:
            self._idle.put(worker)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._sandbox.close()
        for worker in self._processes:
            worker.close()


class _Worker:
    """One process; asked one unit at a time."""

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

    def ask(self, source: str, unit: Unit) -> _Result:
        """The unit's documents; raises what the worker raised."""
        try:
            _write_frame(self._to, (source, unit))
            answer = _read_frame(self._from)
        except BrokenPipeError:
            answer = None
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise RuntimeError(f"the worker process died at {source}: {unit}")
        return answer

    def close(self) -> None:
        """Ask the process to end by closing its input, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._process.wait()


def sandbox_for(recipe: Recipe) -> Sandbox:
    """The guarded processes with the recipe's limits; not started yet."""
    return Sandbox(seconds=recipe.execution_seconds, mebibytes=recipe.execution_mebibytes)


def serve() -> None:
    """The worker's side: construct the units that come in until the input ends."""
    # Ctrl-C reaches the whole group; the parent answers it and closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not come between the frames.
    os.dup2(2, 1)
    recipe = _read_frame(questions)
    if recipe is None:
        return
    with sandbox_for(recipe) as sandbox:
        context = Context(seed=recipe.seed, sandbox=sandbox)
        while (question := _read_frame(questions)) is not None:
            source, unit = question
            answer: Any
            try:
                answer = construct_unit(source, unit, recipe=recipe, context=context)
            except Exception as error:
                error.add_note(f"while constructing {source}: {unit}")
                answer = error
            _write_frame(answers, answer)


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
