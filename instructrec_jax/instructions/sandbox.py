"""The guarded program that runs collected code; `execution.Sandbox` starts it as a process.

It says in a first line by what means it is confined (`confinement.Confinement.means`). Then it
reads one job a line (JSON), forks a child for each, and writes one answer a line. The child gives
up everything before it touches the job's code, layer by layer:

1. The code sees a short list of builtins and the public names of a few pure modules, not the
   modules themselves; nothing can be imported. Lines are counted, so that an endless loop ends
   after the same number of them on every machine.
2. An audit hook, which no Python code can remove, refuses every audited operation (opening,
   listing, renaming and deleting files, processes, sockets, imports, native code, frames), and the
   system calls of `os` are deleted from its modules.
3. The operating system's means, for code that breaks out of Python: confinement.py.

What is left to code that breaks out of all of the first two: computing within its limits, what the
process has in memory, and the pipe of its own answers. It may write those as it likes, so every
line of them is checked before it counts: a forged answer can be wrong, never more than a literal.

A job: {"code", "name", "arguments": [source of an argument tuple, ...], "modules", "limits"}.
An answer: {"outcomes": [[kind, text], ...]}, kind being one of `KINDS`.
"""

import ast
import builtins
import contextlib
import importlib
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, ModuleType, SimpleNamespace
from typing import Any

from instructrec_jax.instructions.confinement import Confinement

_MODULES = """
bisect calendar cmath collections colorsys datetime decimal fractions functools heapq itertools
keyword math operator re statistics string textwrap unicodedata
"""
ALLOWED_MODULES = tuple(_MODULES.split())
# For tests that are trusted, never for what they test; with seeds, for outcomes must be repeated.
TEST_MODULES = ("copy", "random")
# They reach any attribute by a name in a text, which the check of the code cannot see; the last
# says how anything is copied.
_REFUSED_NAMES = frozenset({"attrgetter", "methodcaller", "Formatter", "dispatch_table"})
KINDS = frozenset(
    ("ok", "raised", "not_literal", "too_long", "steps", "memory", "refused", "timeout", "crashed")
)
# Bytes of a line of an answer beside its text, and characters of a name in it.
_LINE_BYTES = 600
_NAME_CHARACTERS = 100
# What collected code may call; everything else is missing from its namespace.
_BUILTINS = """
ArithmeticError AssertionError AttributeError Ellipsis Exception False IndexError KeyError
LookupError None NotImplemented NotImplementedError OverflowError RuntimeError StopIteration
True TypeError UnicodeDecodeError UnicodeEncodeError UnicodeError ValueError
ZeroDivisionError abs all any ascii bin bool bytearray bytes callable chr complex dict divmod
enumerate filter float format frozenset hash hex int isinstance issubclass iter len list map
max min next oct ord pow range repr reversed round set slice sorted str sum tuple zip
"""
ALLOWED_BUILTINS = tuple(_BUILTINS.split())
_LITERAL_ATOMS = (int, float, complex, str, bytes, bool, type(None))


# Deep enough for honest code, far from the end of the C stack.
_RECURSION = 200
# The computing time's timer and, behind it, the kernel's limit.
_OUT_OF_TIME = frozenset({signal.SIGPROF, signal.SIGXCPU})


@dataclass(frozen=True)
class Guard:
    """What the server makes once for all its children."""

    modules: dict[str, SimpleNamespace]
    confinement: Confinement


class TooManySteps(BaseException):
    """The code ran more lines than it may; not an Exception, so `except Exception` lets it pass."""


def refuse_operations() -> None:
    """From now on every audited operation of this process fails; there is no way back.

    The hook is a closure over nothing and held by the interpreter alone, so that code which
    reaches this module's globals finds nothing to change.
    """

    def refuse(event: str, arguments: tuple) -> None:
        # These only compute; the last is the step counter's. Reading a frame of a generator or a
        # traceback, or the code of a function ("object.__getattr__"), is refused like the rest.
        if event not in ("exec", "builtins.id", "sys.settrace"):
            raise PermissionError(event)

    sys.addaudithook(refuse)


def remove_system_calls() -> None:
    """Delete the functions of the operating system and the environment from the modules."""
    for module in (os, sys.modules.get("posix")):
        names = vars(module) if module is not None else {}
        for name, value in list(names.items()):
            # The `supports_...` are sets of functions.
            if isinstance(value, BuiltinFunctionType) or name.startswith(("environ", "supports_")):
                del names[name]


def public_names(module: ModuleType) -> SimpleNamespace:
    """The module's public functions, classes and constants; no modules inside modules."""
    return SimpleNamespace(
        **{
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_")
            and not isinstance(value, ModuleType)
            and name not in _REFUSED_NAMES
        }
    )


def allowed_namespace(modules: dict[str, SimpleNamespace], names: list[str]) -> dict[str, Any]:
    """The globals that collected code starts with."""
    safe = {name: getattr(builtins, name) for name in ALLOWED_BUILTINS}
    return {"__builtins__": safe, **{name: modules[name] for name in names}}


def step_counter(limit: int) -> Callable:
    """A trace function that raises `TooManySteps` after `limit` lines."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        if count > limit:
            raise TooManySteps
        return trace

    return trace


def is_literal(value: object, depth: int = 6) -> bool:
    """Whether the value is built of Python's literals alone, not of subclasses of them."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)  # type: ignore[arg-type]
    if kind in _LITERAL_ATOMS:
        return True
    if depth == 0:
        return False
    if kind is dict:
        pairs = value.items()  # type: ignore[attr-defined]
        return all(is_literal(k, depth - 1) and is_literal(v, depth - 1) for k, v in pairs)
    if kind in (list, tuple, set):
        return all(is_literal(item, depth - 1) for item in value)  # type: ignore[attr-defined]
    return False


def described(value: Any, limit: int) -> list[str]:
    """The value as a literal, ["ok", source], or why it is none."""
    if isinstance(value, str | bytes | list | tuple | dict | set) and len(value) > limit:
        return ["too_long", ""]
    if isinstance(value, int) and value.bit_length() > 4 * limit:
        return ["too_long", ""]
    if not is_literal(value):
        return ["not_literal", type(value).__name__[:_NAME_CHARACTERS]]
    text = repr(value)
    return ["too_long", ""] if len(text) > limit else ["ok", text]


def call(function: Callable, arguments: tuple, limits: dict[str, Any]) -> list[str]:
    """Call the function; the outcome as [kind, text]."""
    sys.settrace(step_counter(limits["steps"]))
    try:
        value = function(*arguments)
        sys.settrace(None)
        return described(value, limits["characters"])
    except TooManySteps:
        return ["steps", ""]
    except MemoryError:
        return ["memory", ""]
    except PermissionError as error:
        return ["refused", str(error)[:_NAME_CHARACTERS]]
    except BaseException as error:
        return ["raised", type(error).__name__[:_NAME_CHARACTERS]]
    finally:
        sys.settrace(None)


def run_job(job: dict[str, Any], guard: Guard, write: int) -> None:
    """In the child: run the job's calls and write each outcome as a line to the pipe `write`."""
    limits = job["limits"]
    namespace = allowed_namespace(guard.modules, job["modules"])
    calls = [ast.literal_eval(source) for source in job["arguments"]]
    code = compile(job["code"], "<collected>", "exec", dont_inherit=True)
    send = os.write
    sys.setrecursionlimit(_RECURSION)
    guard.confinement.apply(answers=write, seconds=limits["seconds"], mebibytes=limits["mebibytes"])
    remove_system_calls()
    refuse_operations()
    outcomes = [define(code, namespace, limits)]
    if outcomes[0][0] == "ok":
        function = namespace[job["name"]]
        outcomes = []
        for arguments in calls:
            send(write, answer_line([call(function, arguments, limits)]))
    send(write, answer_line(outcomes * len(calls)))


def answer_line(outcomes: list[list[str]]) -> bytes:
    """Outcomes as a line of JSON; a character of theirs takes four bytes at most."""
    return (json.dumps(outcomes, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def is_outcome(value: object, characters: int) -> bool:
    """Whether this is [kind, text] as `call` gives it; the text of "ok" must be a literal."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    kind, text = value
    if not isinstance(kind, str) or not isinstance(text, str) or kind not in KINDS:
        return False
    if kind != "ok":
        return len(text) <= _NAME_CHARACTERS
    if len(text) > characters:
        return False
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def read_outcomes(data: bytes, count: int, characters: int) -> list[list[str]]:
    """The outcomes of the lines up to the first that is none; [] where there are more than calls.

    The child's code may have written any of it.
    """
    outcomes: list[list[str]] = []
    for line in data.split(b"\n")[:-1]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(values, list) or not all(is_outcome(v, characters) for v in values):
            break
        outcomes += values
    return outcomes if len(outcomes) <= count else []


def define(code: CodeType, namespace: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """Run the definition itself (its defaults and decorators are code too)."""

    def execute() -> None:
        exec(code, namespace)

    return call(execute, (), limits)


def collect(read: int, deadline: float, limit: int) -> tuple[bytes, bool]:
    """Everything that the child writes, and whether it ran past the deadline.

    More than `limit` bytes are no answer: nothing of them is kept.
    """
    data = b""
    while len(data) <= limit:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return data, True
        part = os.read(read, 1 << 16)
        if not part:
            return data, False
        data += part
    return b"", False


def answer(job: dict[str, Any], guard: Guard) -> list[list[str]]:
    """Fork, wait for the outcomes at most the job's wall time, and end the child's whole group."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status, leave = 1, os._exit
        try:
            os.setsid()
            run_job(job, guard, write)
            status = 0
        finally:
            leave(status)
    os.close(write)
    limits, count = job["limits"], len(job["arguments"])
    output_limit = (count + 1) * (4 * limits["characters"] + _LINE_BYTES)
    data, late = collect(read, time.monotonic() + limits["wall_seconds"], output_limit)
    os.close(read)
    # Always: a child may close the pipe and stay. One that a signal ended keeps that signal.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    late = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in _OUT_OF_TIME)
    outcomes = read_outcomes(data, count, limits["characters"])
    missing = ["timeout" if late else "crashed", ""]
    return outcomes + [missing] * (count - len(outcomes))


def main() -> None:
    """Say how jobs are confined, then answer them until the input ends."""
    names = ALLOWED_MODULES + TEST_MODULES
    modules = {name: public_names(importlib.import_module(name)) for name in names}
    guard = Guard(modules=modules, confinement=Confinement())
    say({"means": guard.confinement.means})
    for line in sys.stdin:
        say({"outcomes": answer(json.loads(line), guard)})


def say(message: dict[str, Any]) -> None:
    """Write a line to the outer process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
