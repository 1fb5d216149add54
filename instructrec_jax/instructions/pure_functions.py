"""Choosing functions that only compute, and arguments to call them with.

The checks are about usefulness first: what they let through is run under guard all the same.
"""

import ast
import random
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from instructrec_jax.instructions.reaching import reaches_out
from instructrec_jax.instructions.sandbox import ALLOWED_BUILTINS, ALLOWED_MODULES

_MAXIMUM_PARAMETERS = 4
_MAXIMUM_LINES = 30
_REFUSED_NODES = (
    ast.AsyncFunctionDef,
    ast.AsyncFor,
    ast.AsyncWith,
    ast.Await,
    ast.ClassDef,
    ast.Global,
    ast.Import,
    ast.ImportFrom,
    ast.Nonlocal,
    ast.With,
    ast.Yield,
    ast.YieldFrom,
)
# What they give tomorrow is not what they give today.
_CLOCKS = frozenset({"now", "today", "utcnow"})


@dataclass(frozen=True)
class PureFunction:
    """A function that can stand alone: its source, and what it needs.

    `parameters` are the positional ones that a call must or may give (`required` of them must be).
    """

    name: str
    code: str
    parameters: tuple[str, ...]
    required: int
    modules: tuple[str, ...]

    @property
    def listing(self) -> str:
        """The source as it is shown, with the imports that it needs."""
        imports = [f"import {module}" for module in self.modules]
        return "\n".join([*imports, *([""] if imports else []), self.code])


def pure_function(content: Mapping[str, Any]) -> PureFunction | None:
    """The function of a "python_definition" document if it only computes, else None.

    It may use its parameters and variables, harmless builtins, itself, and pure modules that its
    file imports by name; no attribute that leads to frames or is private or set, no import, no
    generator.
    """
    found = examined(content)
    return found if isinstance(found, PureFunction) else None


def examined(content: Mapping[str, Any]) -> PureFunction | str:
    """The function if it only computes, else why it is not run.

    Reasons: "" (a class, a method, nothing to run), "length", "signature" (decorators, too many
    parameters or none), "statement" (import, with, yield, class, global, ...), "attribute" (a
    clock, or of `reaching.py`), "name" (of something outside the function that is on no list).
    """
    code: str = content["code"]
    # Most functions are methods: they are told before the costly parsing.
    if content["kind"] != "function" or not content["body"]:
        return ""
    if re.search(r"\((self|cls)\b", content["signature"]):
        return ""
    if code.count("\n") >= _MAXIMUM_LINES:
        return "length"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (function,) = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    if not isinstance(function, ast.FunctionDef):
        return "statement"
    arguments = function.args
    parameters = tuple(a.arg for a in [*arguments.posonlyargs, *arguments.args])
    required = len(parameters) - len(arguments.defaults)
    if not parameters or required > _MAXIMUM_PARAMETERS or function.decorator_list:
        return "signature"
    if any(default is None for default in arguments.kw_defaults):
        return "signature"
    modules = _needed_modules(function, content["modules"])
    if isinstance(modules, str):
        return modules
    return PureFunction(
        name=function.name, code=code, parameters=parameters, required=required, modules=modules
    )


def _needed_modules(function: ast.FunctionDef, imported: tuple[str, ...]) -> tuple[str, ...] | str:
    """The modules that the function uses; a reason when it uses anything that is not allowed."""
    bound = {function.name} | {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    used: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, _REFUSED_NODES):
            return "statement"
        if reaches_out(node) or (isinstance(node, ast.Attribute) and node.attr in _CLOCKS):
            return "attribute"
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        if isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    free = used - bound
    modules = {name for name in free if name in imported and name in ALLOWED_MODULES}
    return tuple(sorted(modules)) if free - modules <= set(ALLOWED_BUILTINS) else "name"


_Maker = Callable[[random.Random], Any]
_WORDS = (
    "spam eggs ham python value name path item key file text line token alpha beta gamma red green "
    "blue Monday Paris index data node left right first last"
)


def _whole(choose: random.Random) -> int:
    return choose.choice((0, 1, 2, choose.randint(3, 12), choose.randint(-9, 99), 2024, 256))


def _decimal(choose: random.Random) -> float:
    return choose.randint(-20, 40) / choose.choice((1, 2, 4, 10))


def _truth(choose: random.Random) -> bool:
    return choose.random() < 0.5


def _text(choose: random.Random) -> str:
    words = choose.choices(_WORDS.split(), k=choose.randint(1, 3))
    forms = (
        " ".join(words),
        words[0],
        "/" + "/".join(words),
        words[0] + choose.choice((".py", ".txt", ".tar.gz")),
        ",".join(words),
        "_".join(words),
        "".join(word.capitalize() for word in words),
        f"{words[0]}={words[-1]}",
        "  " + " ".join(words) + " ",
        "\n".join(words),
        "-".join(words),
        str(choose.randint(0, 999)),
        f"<{words[0]}>",
        words[0].upper(),
        "",
    )
    return choose.choice(forms)


def _texts(choose: random.Random) -> list[str]:
    return [_text(choose) for _ in range(choose.randint(1, 4))]


def _wholes(choose: random.Random) -> list[int]:
    return [choose.randint(-5, 30) for _ in range(choose.randint(1, 6))]


def _pairs(choose: random.Random) -> list[tuple[str, int]]:
    return [(word, choose.randint(0, 9)) for word in choose.sample(_WORDS.split(), 2)]


def _mapping(choose: random.Random) -> dict[str, Any]:
    return dict(_pairs(choose))


def _characters(choose: random.Random) -> bytes:
    return _text(choose).encode()


_ALL_MAKERS: tuple[_Maker, ...] = (
    _whole,
    _text,
    _text,
    _wholes,
    _texts,
    _decimal,
    _truth,
    _characters,
    _mapping,
    _pairs,
)
# What a parameter's name says about its type: the first entry whose words it contains.
_BY_NAME: tuple[tuple[tuple[str, ...], tuple[_Maker, ...]], ...] = (
    (("path", "name", "str", "text", "line", "word", "title", "msg", "url"), (_text,)),
    (("flag", "is_", "strict", "keep"), (_truth,)),
    (("list", "seq", "iterable", "items", "args", "data", "values"), (_wholes, _texts, _pairs)),
    (("count", "num", "year", "month", "day", "size", "width", "index", "pos"), (_whole,)),
    (("byte", "buf"), (_characters,)),
    (("dict", "map"), (_mapping,)),
)
_BY_EXACT_NAME: dict[str, tuple[_Maker, ...]] = {
    **dict.fromkeys(("s", "p", "t", "prefix", "suffix", "sep"), (_text,)),
    **dict.fromkeys(("n", "i", "j", "k", "lo", "hi"), (_whole,)),
    **dict.fromkeys(("x", "y", "a", "b", "r", "g", "z"), (_whole, _decimal, _text, _wholes)),
}


def sample_arguments(
    function: PureFunction, *, count: int, choose: random.Random
) -> list[tuple[Any, ...]]:
    """Different argument tuples of literals; types go by the parameters' names, else by chance."""
    most = min(len(function.parameters), _MAXIMUM_PARAMETERS)
    found: dict[str, tuple[Any, ...]] = {}
    for _ in range(count * 2):
        length = choose.randint(max(1, function.required), most)
        values = tuple(_value(name, choose) for name in function.parameters[:length])
        found.setdefault(repr(values), values)
    return list(found.values())[:count]


def _value(name: str, choose: random.Random) -> Any:
    makers = _BY_EXACT_NAME.get(name, ())
    if not makers:
        by_name = (makers for words, makers in _BY_NAME if any(w in name.lower() for w in words))
        makers = next(by_name, _ALL_MAKERS)
    # Names deceive: now and then any type.
    if choose.random() < 0.15:
        makers = _ALL_MAKERS
    return choose.choice(makers)(choose)
