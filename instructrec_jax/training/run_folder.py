"""The run folder: made, writable, and one run's alone."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax

from instructrec_jax.errors import ConfigError

# The owner's sign of life in the lock file, for file systems whose locks other machines do not see.
HEARTBEAT_SECONDS = 5.0


@contextmanager
def claimed_run_folder(workdir: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it inside the block.

    Only the first process of a run does. On one machine the system's lock decides, and lets go of a
    killed run's claim. Some network disks have no locks, or locks that other machines do not see:
    there the owner's beat in `.lock` decides. A claim of another machine is left behind by a killed
    run where its beat stands still, which takes some seconds to see.

    Raises:
      ConfigError: the folder cannot be written, or another run is at work in it.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError as error:
            raise _occupied(workdir, _owner(lock)) from error
        except OSError:
            locked = False
        owner = _owner(lock)
        if _at_work(lock, owner, locked=locked):
            raise _occupied(workdir, owner)
        ended = threading.Event()
        beats = threading.Thread(target=_beat, args=(lock, ended), daemon=True)
        _write_beat(lock)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            lock.truncate(0)


def _occupied(workdir: Path, owner: dict[str, Any]) -> ConfigError:
    who = f" (process {owner['process']} on {owner['host']})" if owner else ""
    return ConfigError(
        f"another run is at work in {workdir}{who}; wait for it or give another --workdir"
    )


def _owner(lock: IO[str]) -> dict[str, Any]:
    """{"host", "process", "beat"} of a run that is at work, or was killed; {} where there is none.

    A file that is not whole is of a process that was killed while it wrote it.
    """
    lock.seek(0)
    try:
        owner = json.loads(lock.read())
        return owner if {"host", "process", "beat"} <= owner.keys() else {}
    except (ValueError, AttributeError, OSError):
        return {}


def _at_work(lock: IO[str], owner: dict[str, Any], *, locked: bool) -> bool:
    """Whether the owner of the file is alive although its lock, if any, was not in the way."""
    if not owner:
        return False
    if owner["host"] == socket.gethostname() and (locked or not _is_alive(owner["process"])):
        return False
    # Clocks of machines differ: only a beat that moves is a sign of life.
    deadline = time.monotonic() + 3 * HEARTBEAT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(HEARTBEAT_SECONDS / 5)
        now = _owner(lock)
        if now != owner:
            return bool(now)
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _beat(lock: IO[str], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            _write_beat(lock)
        except OSError:
            # The run itself tells of a full disk.
            continue


def _write_beat(lock: IO[str]) -> None:
    record = {"host": socket.gethostname(), "process": os.getpid(), "beat": time.time()}
    os.pwrite(lock.fileno(), f"{json.dumps(record):<200}".encode(), 0)
