"""Load a config file, apply `--config.a.b=value` overrides and record where each value came from.

A config file defines `get_config()` or `get_config(argument)`, called with the text after the colon
of `--config=file.py:argument`, and returns a ConfigDict. Keys that it leaves out come from
configs/base.py; keys that base.py does not know are refused, with the nearest known key.
"""

import ast
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from instructrec_jax.errors import ConfigError, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
BASE_FILE = "configs/base.py"
COMMAND_LINE = "command line"
# Sections whose keys are the user's own: keyword arguments and task names.
FREE_SECTIONS = ("optimizer.options", "data.mixture_rates")
_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a tuple",
}


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{"train.steps": 10, ...}; an empty section stays as its own key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            flat.update({f"{key}.{name}": leaf for name, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def load_config(spec: str, overrides: Mapping[str, str]) -> tuple[ConfigDict, dict[str, str]]:
    """The locked config of `file.py[:argument]` with overrides, and the origin of each flat key.

    Raises:
      ConfigError: a file that is missing or broken, or unknown or ill-typed keys, all in one
        message.
    """
    file, _, argument = spec.partition(":")
    base = _call_get_config(_import_file(REPOSITORY / BASE_FILE), "", BASE_FILE)
    chosen = _call_get_config(_import_file(Path(file)), argument, file)
    problems: list[str] = []
    origins = dict.fromkeys(flatten(base), BASE_FILE)
    for key, value in flatten(chosen).items():
        if _is_set_in(base, key, value):
            continue
        problem = _assign(base, key, value)
        if problem:
            problems.append(f"{file}: {problem}")
        origins[key] = spec
    for key, text in overrides.items():
        problem = _override(base, key, text)
        if problem:
            problems.append(f"--config.{key}={text}: {problem}")
        origins[key] = COMMAND_LINE
    if problems:
        raise ConfigError("\n  ".join(["the configuration cannot be used:", *problems]))
    kept = flatten(base)
    return base.lock(), {key: origin for key, origin in origins.items() if key in kept}


def config_record(config: ConfigDict, origins: Mapping[str, str]) -> dict[str, Any]:
    """What the run folder's config.json holds."""
    return {"config": json.loads(config.to_json_best_effort()), "origins": dict(origins)}


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        known = sorted(
            str(file.relative_to(REPOSITORY)) for file in REPOSITORY.glob("configs/*.py")
        )
        raise ConfigError(f"config file {path} does not exist{nearest(str(path), known)}")
    if str(REPOSITORY) not in sys.path:
        # A config file reads `from configs import base`, wherever it lies itself.
        sys.path.insert(0, str(REPOSITORY))
    module_spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"config file {path} fails: {type(error).__name__}: {error}") from error
    return module


def _call_get_config(module: ModuleType, argument: str, file: str) -> ConfigDict:
    function = getattr(module, "get_config", None)
    if function is None:
        raise ConfigError(f"config file {file} has no function get_config()")
    takes_argument = bool(inspect.signature(function).parameters)
    if argument and not takes_argument:
        raise ConfigError(f"config file {file} takes no argument; remove ':{argument}'")
    try:
        return function(argument) if argument else function()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"config file {file} fails: {type(error).__name__}: {error}") from error


def _section(config: ConfigDict, key: str) -> tuple[ConfigDict | None, str]:
    """The section that holds the last part of a dotted key, or None."""
    *path, name = key.split(".")
    for part in path:
        if part not in config or not isinstance(config[part], ConfigDict):
            return None, name
        config = config[part]
    return config, name


def _is_free(key: str) -> bool:
    return key.rpartition(".")[0] in FREE_SECTIONS


def _is_set_in(config: ConfigDict, key: str, value: Any) -> bool:
    section, name = _section(config, key)
    return section is not None and name in section and section[name] == value


def _assign(config: ConfigDict, key: str, value: Any) -> str:
    """Sets a known key to a value of its type; returns the problem, or an empty string."""
    section, name = _section(config, key)
    if section is None or (name not in section and not _is_free(key)):
        return f"unknown key '{key}'{nearest(key, flatten(config))}"
    if name in section:
        known = section[name]
        if isinstance(known, ConfigDict):
            keys = ", ".join(f"{key}.{part}" for part in known) or f"{key}.NAME=VALUE"
            return f"'{key}' is a section; set its keys: {keys}"
        if isinstance(known, float) and type(value) is int:
            value = float(value)
        if isinstance(known, tuple) and isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(known):
            return f"'{key}' takes {_KINDS[type(known)]}, not {value!r}"
    section[name] = value
    return ""


def _override(config: ConfigDict, key: str, text: str) -> str:
    section, name = _section(config, key)
    known = section[name] if section is not None and name in section else None
    value, problem = _parse(text, known)
    return problem or _assign(config, key, value)


def _whole_number(text: str) -> str:
    """A hint for 1e3 and 1000.0."""
    try:
        number = float(text)
    except ValueError:
        return ""
    return f"; write {int(number)}" if number.is_integer() else ""


def _parse(text: str, known: Any) -> tuple[Any, str]:
    """The value of `text` under the type of `known`, and a problem or an empty string."""
    if isinstance(known, str):
        return text, ""
    if isinstance(known, bool):
        truth = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
        return truth, "" if truth is not None else f"takes {_KINDS[bool]}"
    if isinstance(known, int):
        try:
            return int(text), ""
        except ValueError:
            return None, f"takes {_KINDS[int]}{_whole_number(text)}"
    if isinstance(known, float):
        try:
            return float(text), ""
        except ValueError:
            return None, f"takes {_KINDS[float]}"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # `--config.build.languages=zh,de` names two values, without quotes; `=` alone none.
        value = tuple(text.split(",") if text else ()) if isinstance(known, tuple) else text
    if isinstance(known, tuple) and not isinstance(value, tuple | list):
        value = (value,)
    return value, ""
