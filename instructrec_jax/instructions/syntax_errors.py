"""Slips of the keyboard put into working code, so that Python cannot read it any more.

Each changes one line. The message is Python's own, found by parsing alone: nothing is run.
"""

import ast
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BrokenCode:
    """Code that does not parse: `kind` (a key of `SLIPS`), the line from 1 that was changed, before
    and after (indentation kept), the whole code, and what Python says and at which line.
    """

    kind: str
    line: int
    before: str
    after: str
    code: str
    message: str
    message_line: int


def break_syntax(code: str, *, choose: random.Random) -> BrokenCode | None:
    """The code with one slip; None where none of them fits."""
    lines = code.split("\n")
    for kind in choose.sample(list(SLIPS), len(SLIPS)):
        places = [
            (number, changed)
            for number, line in enumerate(lines)
            if line.strip() and (changed := SLIPS[kind](line)) not in ("", line)
        ]
        # Inside a text or between brackets a slip may change nothing for the parser.
        for number, changed in choose.sample(places, min(3, len(places))):
            broken = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
            error = _complaint(broken)
            if error is not None:
                return BrokenCode(
                    kind=kind,
                    line=number + 1,
                    before=lines[number],
                    after=changed,
                    code=broken,
                    message=f"{type(error).__name__}: {error.msg}",
                    message_line=error.lineno or number + 1,
                )
    return None


def _complaint(code: str) -> SyntaxError | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


def _without_colon(line: str) -> str:
    compound = re.match(r"\s*(if|elif|else|for|while|def|try|except|finally|with)\b", line)
    return line[:-1] if compound and line.endswith(":") else ""


def _without_closing_bracket(line: str) -> str:
    match = re.fullmatch(r"(.*[(\[{].*)[)\]}](:?)", line)
    return match[1] + match[2] if match else ""


def _without_quote(line: str) -> str:
    """A text whose end is missing."""
    match = re.fullmatch(r"""([^"'#]*(["'])[^"'\\]+)\2([^"'#]*)""", line)
    return match[1] + match[3] if match else ""


def _indented_too_far(line: str) -> str:
    return f"    {line}" if re.match(r"\s+(return|raise|[a-z_]+ = )", line) else ""


def _assignment_for_comparison(line: str) -> str:
    is_test = re.match(r"\s*(if|elif|while)\b", line) and line.count(" == ") == 1
    return line.replace(" == ", " = ") if is_test else ""


def _misspelt_keyword(line: str) -> str:
    spelt = {"return": "retrun", "while": "whlie", "for": "fro", "elif": "elfi"}
    match = re.fullmatch(r"(\s*)(return|while|for|elif)( .*)", line)
    return match[1] + spelt[match[2]] + match[3] if match else ""


# The slips by name, as targets name them: a line → the changed line, "" where it does not fit.
SLIPS: dict[str, Callable[[str], str]] = {
    "missing colon": _without_colon,
    "missing closing bracket": _without_closing_bracket,
    "missing closing quote": _without_quote,
    "wrong indentation": _indented_too_far,
    "`=` in place of `==`": _assignment_for_comparison,
    "misspelt keyword": _misspelt_keyword,
}
