"""Code that a model wrote, made ready for the guarded process and run there, never anywhere else.

The guarded process (instructions/sandbox.py) has no import statement and a short list of builtins
and modules. Code for it is therefore rewritten: imports of those modules become names, annotations
go, and anything that reaches for private attributes or other modules is refused before it runs.
Classes, files and `print` are missing there: code that needs them fails.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Sequence

from instructrec_jax.instructions.execution import Outcome, Sandbox
from instructrec_jax.instructions.sandbox import ALLOWED_MODULES

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)
# Imported for annotations alone, which are taken out.
_ANNOTATING = frozenset({"typing", "__future__", "collections.abc"})
_CHECKER = "check_under_guard"


def code_of(output: str) -> str:
    """The code of an answer: what stands in its first Markdown fence, or all of it."""
    fenced = _FENCE.search(output)
    return fenced[1] if fenced else output


def parsed(source: str) -> ast.Module | None:
    """The syntax tree; None where Python cannot read the source."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def assertions_of(source: str) -> list[str] | None:
    """The assert statements that a source consists of; None where there is anything else in it."""
    tree = parsed(source)
    if tree is None or not tree.body or not all(isinstance(s, ast.Assert) for s in tree.body):
        return None
    return [ast.unparse(statement) for statement in tree.body]


def outcomes(sandbox: Sandbox, source: str, calls: Sequence[str]) -> list[Outcome]:
    """What each call, an expression, gives after `source` has run; "refused" for a bad source.

    One job for all calls: what one changes in a global, the next sees.
    """
    return _run(sandbox, source, [f"return {call}" for call in calls])


def holding(sandbox: Sandbox, source: str, statements: Sequence[str]) -> list[bool]:
    """Which of the statements run without an error after `source` has run."""
    bodies = [f"{statement}\nreturn 1" for statement in statements]
    return [outcome == Outcome("ok", "1") for outcome in _run(sandbox, source, bodies)]


def _run(sandbox: Sandbox, source: str, bodies: Sequence[str]) -> list[Outcome]:
    refused = [Outcome("refused", "")] * len(bodies)
    lines = [source, f"def {_CHECKER}(number):", "    pass"]
    for number, body in enumerate(bodies):
        lines.append(f"    if number == {number}:")
        lines += [f"        {line}" for line in body.splitlines()]
    tree = parsed("\n".join(lines))
    if tree is None or not bodies:
        return refused
    rewriting = _Rewriting()
    try:
        code = ast.unparse(ast.fix_missing_locations(rewriting.visit(tree)))
    except (_Refused, RecursionError):
        return refused
    return sandbox.run(
        code,
        name=_CHECKER,
        arguments=[f"({number},)" for number in range(len(bodies))],
        modules=tuple(sorted(rewriting.modules)),
    )


class _Refused(Exception):
    """The code reaches for something that the guarded process does not give."""


class _Rewriting(ast.NodeTransformer):
    """Imports to names, annotations out; raises `_Refused`."""

    def __init__(self) -> None:
        self.modules: set[str] = set()

    def visit_Import(self, node: ast.Import) -> ast.AST | list[ast.stmt]:
        """`import a as b` to `b = a`."""
        return self._bound((a.name, a.asname or a.name, None) for a in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.stmt]:
        """`from a import b as c` to `c = a.b`."""
        if node.module in _ANNOTATING:
            return ast.Pass()
        return self._bound((node.module or "", a.asname or a.name, a.name) for a in node.names)

    def _bound(self, names: Iterable[tuple[str, str, str | None]]) -> list[ast.stmt]:
        statements: list[ast.stmt] = [ast.Pass()]
        for module, name, attribute in names:
            if module in _ANNOTATING:
                continue
            if module not in ALLOWED_MODULES or (attribute or "x").startswith(("_", "*")):
                raise _Refused(module)
            self.modules.add(module)
            value: ast.expr = ast.Name(module, ast.Load())
            if attribute is not None:
                value = ast.Attribute(value, attribute, ast.Load())
            if attribute is not None or name != module:
                statements.append(ast.Assign([ast.Name(name, ast.Store())], value))
        return statements

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Private attributes are the way out of Python's own guard."""
        if node.attr.startswith("_"):
            raise _Refused(node.attr)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """So are the names with two underscores."""
        if node.id.startswith("__"):
            raise _Refused(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """A parameter without its type."""
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function without the type of its value."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """`a: int = 1` to `a = 1`."""
        if node.value is None:
            return ast.Pass()
        return self.generic_visit(ast.Assign([node.target], node.value))
