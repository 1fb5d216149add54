"""The run folder: made, writable, and one run's alone."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from instructrec_jax.errors import ConfigError


@contextmanager
def claimed_run_folder(workdir: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it inside the block.

    Only the first process of a run does; the system lets go of a killed run's claim.

    Raises:
      ConfigError: the folder cannot be written, or another run is at work in it.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"workdir {workdir} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another run is at work in {workdir}; wait for it or give another --workdir"
            ) from error
        except OSError:
            # Some network disks have no locks.
            pass
        yield
