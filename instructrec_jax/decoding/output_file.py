"""Answers that are appended to a file, so that the same command goes on where it was broken off.

    answers.jsonl         one line for each line of input, in order
    answers.jsonl.state   the settings that the answers were made with

Every line of input gives one line of output, so the whole lines that are there tell how far a run
has come. A last line without its end is cut off, and so are answers of a window (decode.py) that
was not whole: answered again with all of it, they are the same to the last digit. Other settings
are refused, for the file would hold answers of two kinds.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from instructrec_jax.errors import ConfigError, DataError

# In the settings of a shard that is whole: the number of lines of the whole input.
FINISHED = "finished_lines"
# The lines of a window; not of answers, which is why another number is not refused.
WINDOW = "window_lines"
# The setting that says what a file of questions held.
INPUT_DIGEST = "input_sha256"


@dataclass(frozen=True)
class Written:
    """What a file of answers has.

    `bytes_of_windows` are those of whole windows; None where it was written in others.
    """

    lines: int = 0
    last_id: str | int | None = None
    bytes_of_windows: int | None = None


def open_output(
    path: Path, settings: Mapping[str, Any], *, overwrite: bool, window_lines: int
) -> tuple[IO[bytes], Written]:
    """The file to append to, and what it has.

    ConfigError: it cannot be written, is being written by another process, or holds answers that
    were made with other settings. DataError: answers to what the input held before.
    """
    # As JSON gives them back, so that they compare.
    asked = json.loads(json.dumps(dict(settings)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as unless_it_fails:
            file = unless_it_fails.enter_context(open(path, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            written = Written()
            if path.stat().st_size > 0 and not overwrite:
                check_settings(path, asked)
                written = _whole_lines(path, window_lines)
            else:
                if path.is_file():
                    # Before the new settings: old answers must never stand beside them.
                    file.truncate(0)
                write_state(path, {**asked, WINDOW: window_lines})
            unless_it_fails.pop_all()
            return file, written
    except BlockingIOError:
        raise ConfigError(f"--output={path}: another process is writing it") from None
    except OSError as error:
        raise ConfigError(f"--output={path} cannot be written: {error.strerror}") from None


def check_settings(path: Path, asked: Mapping[str, Any]) -> None:
    """ConfigError: answers that were made with other settings, or with nobody knows which."""
    made_with = read_state(path)
    for name in (FINISHED, WINDOW):
        made_with.pop(name, None)
    names = {*made_with, *asked}
    other = sorted(name for name in names if made_with.get(name) != asked.get(name))
    if other == [INPUT_DIGEST]:
        raise DataError(
            f"--output={path} holds answers to another content of {asked['input']}: the input has "
            "changed; choose another file, or start it over with --overwrite"
        )
    if other:
        name = other[0]
        raise ConfigError(
            f"--output={path} holds answers made with {name}={made_with.get(name)!r}, not "
            f"{asked.get(name)!r}; choose another file, or start it over with --overwrite"
        )


def _whole_lines(path: Path, window_lines: int) -> Written:
    """The whole lines, after what follows them is cut off."""
    count = end = windows = 0
    last = b""
    with open(path, "r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                count, end, last = count + 1, end + len(line), line
                windows = windows if count % window_lines else end
        file.truncate(end)
    if not count:
        return Written()
    try:
        same = read_state(path).get(WINDOW) == window_lines
        return Written(count, json.loads(last)["id"], windows if same else None)
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path} line {count} is no answer; --overwrite starts it over") from None


def state_path(path: Path) -> Path:
    """Where the settings are that a file of answers was made with."""
    return path.with_name(path.name + ".state")


def read_state(path: Path) -> dict[str, Any]:
    """The settings that a file of answers was made with. ConfigError: nothing tells them."""
    state = state_path(path)
    try:
        return dict(json.loads(state.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ConfigError(
            f"--output={path} exists, and no {state.name} beside it tells what made it; "
            "--overwrite starts it over"
        ) from None


def write_state(path: Path, settings: Mapping[str, Any]) -> None:
    """At once: a killed run leaves the old settings or the new ones."""
    state = state_path(path)
    unfinished = state.with_name(f"{state.name}.{os.getpid()}.new")
    unfinished.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, state)
