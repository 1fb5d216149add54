"""Errors that a person can mend, each with the exit code that its binary ends with."""


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
