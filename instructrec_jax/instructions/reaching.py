"""Attributes by which code under guard would reach out of itself.

Frames (of generators and tracebacks) lead to the program that runs the code, and so to its answers;
classes and attributes that are set can make an object that is equal to all. The guard of
`sandbox.py` keeps such code from doing harm; it is refused before it runs so that it does not
forge its outcomes either.
"""

import ast
import re

_PREFIXES = ("_", "gi_", "cr_", "ag_", "tb_", "f_", "co_")
_NAMES = frozenset(
    {
        *("mro", "update_wrapper", "wraps", "format_map"),
        # What numbers of everybody are rounded to, and the first day of everybody's weeks.
        *("setcontext", "setfirstweekday"),
    }
)
# A field of a text to be formatted that reads an attribute.
_READING_FIELD = re.compile(r"\{[^{}:!]*\.")


def reaches_out(node: ast.AST) -> bool:
    """Whether this node itself reads such an attribute, sets any, or formats an unknown text."""
    if isinstance(node, ast.MatchClass):
        # A pattern reads attributes too.
        return any(map(is_way_out, node.kwd_attrs))
    if not isinstance(node, ast.Attribute):
        return False
    is_set = not isinstance(node.ctx, ast.Load)
    return is_set or is_way_out(node.attr) or not _formats_harmlessly(node)


def is_way_out(name: str) -> bool:
    """Whether an attribute of this name leads to frames, classes or private things."""
    return name.startswith(_PREFIXES) or name in _NAMES


def _formats_harmlessly(node: ast.Attribute) -> bool:
    """False for `format` but of a text, known before anything runs, that reads no attributes."""
    if node.attr != "format":
        return True
    match node.value:
        case ast.Constant(value=str(text)):
            return _READING_FIELD.search(text) is None
    return False
