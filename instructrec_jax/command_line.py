"""What every binary shares: flags, `--config` with overrides, error messages and exit codes."""

import contextlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import ConfigError, UserError

_DEBUG = flags.DEFINE_boolean("debug", False, "Show the traceback of a user error.")
_HELP = {"--help", "-help", "-h", "--helpfull", "--helpshort"}
_OVERRIDE = "--config."
# What a shell reports of a program that SIGINT ended.
_INTERRUPTED = 130
# The overrides are taken out of the command line before absl reads it.
_overrides: dict[str, str] = {}


def say(text: str = "") -> None:
    """One line for the person who started the program; data goes to stdout, words to stderr."""
    # Work goes on when nobody listens any more, as after `train 2>&1 | head`.
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], int | None], *, needs_config: bool) -> NoReturn:
    """Reads the command line, calls `main` and exits with its code.

    A UserError ends the program with its message and its exit code; any other exception is a defect
    of this code and keeps its traceback (exit code 1).
    """
    if needs_config:
        # Named after the program, so that --help lists it among the program's own flags.
        flags.DEFINE_string(
            "config",
            None,
            "Config file, `file.py` or `file.py:argument`. Any of its values can be changed: "
            "--config.train.steps=500.",
            module_name=sys.argv[0],
        )
    try:
        app.run(lambda _: _guarded(main), flags_parser=_parse_flags)
    except SystemExit as ended:
        # absl ends with 1 after printing the help that was asked for.
        sys.exit(0 if _HELP & set(sys.argv[1:]) else ended.code)
    sys.exit(0)


def loaded_config(**flag_values: str | None) -> tuple[ConfigDict, dict[str, str]]:
    """The locked config of `--config` with its overrides, and the origin of each key.

    Args:
      **flag_values: top-level keys that have a flag of their own, None where it was not given.
    """
    given = {key: value for key, value in flag_values.items() if value is not None}
    return load_config(flags.FLAGS.config, {**_overrides, **given})


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--config.a.b=value` and `--config.a.b value` from the other arguments.

    Raises:
      ConfigError: an override without a value.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument.startswith("-config."):
            argument = "-" + argument
        if not argument.startswith(_OVERRIDE):
            rest.append(argument)
            continue
        key, equals, value = argument[len(_OVERRIDE) :].partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise ConfigError(f"--config.{key} has no value; write --config.{key}=VALUE")
            value = queue.pop(0)
        overrides[key] = value
    return rest, overrides


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    try:
        rest, overrides = split_overrides(arguments)
        _overrides.update(overrides)
        positional = flags.FLAGS(rest)[1:]
        if positional:
            example = "--config.train.steps=7" if "config" in flags.FLAGS else "--flag=value"
            hint = f"; everything after the command begins with two dashes: {example}"
            raise ConfigError(f"unexpected argument {positional[0]!r}{hint}")
        if overrides and "config" not in flags.FLAGS:
            raise ConfigError(f"this command takes no --config.{next(iter(overrides))}")
        if "config" in flags.FLAGS and not flags.FLAGS.config:
            raise ConfigError("give a config file, for example --config=configs/t5_base.py")
    except ConfigError as error:
        _fail(error, ConfigError.exit_code)
    except flags.Error as error:
        _fail(ConfigError(f"{error}{_example(error)}"), ConfigError.exit_code)
    if flags.FLAGS["verbosity"].using_default_value:
        # absl would raise it to INFO, where Orbax and JAX tell of their inner workings.
        logging.set_verbosity(logging.WARNING)
    return [arguments[0]]


def _example(error: flags.Error) -> str:
    """What to write where the error is of a flag that takes a whole number."""
    named = re.search(r"flag --(\w+)", str(error))
    is_whole = named and named[1] in flags.FLAGS and flags.FLAGS[named[1]].flag_type() == "int"
    return f"; write a whole number, as --{named[1]}=3" if named and is_whole else ""


def _guarded(main: Callable[[], int | None]) -> int | None:
    # Libraries log every file that they touch; what a person must know is said by `say`.
    logging.set_verbosity(logging.INFO if _DEBUG.value else logging.ERROR)
    try:
        return main()
    except UserError as error:
        if _DEBUG.value:
            raise
        _fail(error, error.exit_code)
    except KeyboardInterrupt:
        say("error: interrupted")
        return _INTERRUPTED


def _fail(error: Exception, exit_code: int) -> NoReturn:
    # A configuration's problems are a list, one a line. Names from damaged files may hold line
    # breaks.
    between = "\n" if isinstance(error, ConfigError) else " "
    say(f"error: {between.join(str(error).splitlines())}")
    sys.exit(exit_code)
