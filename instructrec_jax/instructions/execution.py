"""Running collected code under guard, many calls a process.

`sandbox.py` says what the guarded process may do; this side starts it, feeds it and never waits
for it longer than it must. Every call runs in two processes with different hash seeds: where they
disagree (order of a set, identity, time, randomness) the outcome is "unstable".
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_jax.instructions.sandbox import is_outcome

# The package is found by its place: the process sees no site-packages.
_PACKAGE_PARENT = Path(__file__).parents[2]
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from instructrec_jax.instructions import sandbox; sys.path.pop(); sandbox.main()"
)
_HASH_SEEDS = ("1", "2")
# A call may run so many lines; a fixed number, so that a slow machine keeps the same examples.
_STEPS = 20_000
# Wall time of a job as a multiple of its computing time: what waits without computing, or a
# machine that is this much too busy, is given up.
_WALL = 10
# What the outer process needs on top of that to fork, wait and answer.
_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """What a call gave: `kind` "ok" with the result's source in `text`, or why there is none.

    Kinds: ok, raised, not_literal, too_long, steps, memory, refused, timeout, crashed, unstable.
    """

    kind: str
    text: str


@dataclass
class Sandbox:
    """Guarded processes, started at the first call; `close` ends them.

    `seconds` bounds the computing time of one function's calls together, `mebibytes` the address
    space, `characters` the length of a result, `steps` the lines of a call. Computing time, not
    wall time, and lines of code before either: what a build gives must not depend on how busy the
    machine is.
    """

    seconds: float = 2.0
    mebibytes: int = 512
    characters: int = 300
    steps: int = _STEPS
    _servers: list["_Server"] = field(default_factory=list)

    def run(
        self, code: str, *, name: str, arguments: list[str], modules: tuple[str, ...] = ()
    ) -> list[Outcome]:
        """The outcome of calling `name`, defined by `code`, with each tuple of literal arguments.

        Args:
            code: Python source that defines `name`.
            name: The function to call.
            arguments: The source of one tuple of literals for each call.
            modules: Modules that the code uses, out of `sandbox.ALLOWED_MODULES`.
        """
        limits = {
            "seconds": self.seconds,
            "wall_seconds": _WALL * self.seconds,
            "mebibytes": self.mebibytes,
            "characters": self.characters,
            "steps": self.steps,
        }
        job = {
            "code": code,
            "name": name,
            "arguments": arguments,
            "modules": list(modules),
            "limits": limits,
        }
        self._open()
        for server in self._servers:
            server.send(job)
        # Both answers are taken, whatever the first one is: the next job must not find an old one.
        first, second = [
            server.receive(
                count=len(arguments),
                characters=self.characters,
                seconds=_WALL * self.seconds + _GRACE_SECONDS,
            )
            for server in self._servers
        ]
        return [
            a if a == b else Outcome("unstable", "") for a, b in zip(first, second, strict=True)
        ]

    def means(self) -> tuple[str, ...]:
        """What of the operating system confines the calls; see confinement.py.

        Without "system_calls" the guard holds against careless code, not against an attacker's.
        """
        self._open()
        return self._servers[0].means()

    @property
    def means_in_use(self) -> tuple[str, ...] | None:
        """`means` where anything was run; None where nothing was."""
        return self._servers[0].means() if self._servers else None

    def _open(self) -> None:
        if self._servers:
            return
        self._servers = [_Server(hash_seed=seed) for seed in _HASH_SEEDS]
        if "system_calls" not in self._servers[0].means():
            warnings.warn(
                "this system offers no filter of system calls (seccomp): collected code runs "
                "behind Python's own guard alone; leave out the executed tasks for code that you "
                "do not trust",
                RuntimeWarning,
                stacklevel=3,
            )

    def close(self) -> None:
        """End the processes."""
        for server in self._servers:
            server.close()
        self._servers = []

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Server:
    """One guarded process; its working folder is empty and has no name."""

    def __init__(self, *, hash_seed: str) -> None:
        self._hash_seed = hash_seed
        self._process: subprocess.Popen[bytes] | None = None
        self._means: tuple[str, ...] = ()

    def _start(self) -> "subprocess.Popen[bytes]":
        # All that -I does, but for ignoring PYTHONHASHSEED: the environment holds nothing of ours.
        options = ["-P", "-s", "-S", "-B", "-W", "ignore"]
        # Removed as soon as the process stands in it: nothing can be made there any more, and a
        # build that is killed leaves nothing behind.
        with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
            return subprocess.Popen(
                # A shown warning would look for the source's file.
                [sys.executable, *options, "-c", _PROGRAM, str(_PACKAGE_PARENT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONHASHSEED": self._hash_seed, "TZ": "UTC"},
                start_new_session=True,
            )

    def _ensure(self) -> None:
        """A running process, its first line read."""
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._process = self._start()
        line, _ = self._line(_GRACE_SECONDS)
        try:
            self._means = tuple(json.loads(line)["means"])
        except (ValueError, KeyError, TypeError) as error:
            self._stop()
            raise RuntimeError("the guarded process for collected code does not start") from error

    def means(self) -> tuple[str, ...]:
        """What of the operating system confines the jobs."""
        self._ensure()
        return self._means

    def send(self, job: dict[str, Any]) -> None:
        """Hand over a job; the answer is for `receive`."""
        line = json.dumps(job).encode() + b"\n"
        self._ensure()
        if not self._write(line):
            self._stop()
            self._ensure()
            self._write(line)

    def _write(self, line: bytes) -> bool:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def _line(self, seconds: float) -> tuple[bytes, str]:
        """The next line, or b"" and why there is none."""
        assert self._process is not None and self._process.stdout is not None
        number = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        data = b""
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([number], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(number, 1 << 16) if ready else b""
            if not part:
                return b"", "crashed" if ready else "timeout"
            data += part
        return data, ""

    def receive(self, *, count: int, characters: int, seconds: float) -> list[Outcome]:
        """The outcomes of the job sent last, "crashed" for an answer that is none.

        After `seconds` without them the process is ended.
        """
        data, missing = self._line(seconds)
        if missing:
            self._stop()
            return [Outcome(missing, "")] * count
        try:
            outcomes = json.loads(data)["outcomes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            outcomes = []
        if len(outcomes) != count or not all(is_outcome(value, characters) for value in outcomes):
            self._stop()
            return [Outcome("crashed", "")] * count
        return [Outcome(kind, text) for kind, text in outcomes]

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def close(self) -> None:
        """End the process."""
        self._stop()
