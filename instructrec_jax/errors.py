"""Errors that a person can mend, each with the exit code that its binary ends with."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake outside this code: the message is one line that says what to change.

    Exit code 1 stays for defects of this code, which keep their traceback.
    """

    exit_code = 1


class ConfigError(UserError):
    """A bad configuration, flag or tokenizer choice."""

    exit_code = 2


class DataError(UserError):
    """Bad training, evaluation or decoding data; the message names the file and line."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""

    exit_code = 4


class DivergedError(UserError):
    """Training met non-finite losses or gradients too many times in a row."""

    exit_code = 5


class Preempted(UserError):
    """The run was interrupted, saved its state and can go on with the same command."""

    exit_code = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name, "; did you mean 'x'?", or an empty string.

    Dotted names that end alike count as near: train.learning_rate, optimizer.learning_rate.
    """
    names = list(known)
    close = [key for key in names if key.lower() == name.lower()][:1]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        last = name.rsplit(".", 1)[-1]
        close = [key for key in names if key.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean '{close[0]}'?" if close else ""
