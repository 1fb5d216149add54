"""Code that a model wrote, made ready for the guarded process and run there, never anywhere else.

The guarded process (instructions/sandbox.py) has no import statement and a short list of builtins
and modules. Code for it is therefore rewritten: imports of those modules become names, annotations
go, and anything that reaches for private attributes, frames or other modules, or that sets an
attribute, is refused before it runs. Classes and files are missing there: code that needs them
fails. Tests may import two modules more (`TEST_MODULES`); what an answer prints goes nowhere.

The process keeps code from doing harm. That it cannot talk its judge round is this module's work:
tests of an answer (`holding_for`) see none of its names but the functions that they call, and what
these return reaches the tests as plain numbers, texts and containers. So no renamed `abs`, no
object that equals everything and no look at the tests makes a wrong answer pass.
"""

import ast
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from instructrec_jax.instructions.execution import Outcome, Sandbox
from instructrec_jax.instructions.reaching import is_way_out, reaches_out
from instructrec_jax.instructions.sandbox import ALLOWED_MODULES, TEST_MODULES

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)
# Imported for annotations alone, which are taken out.
_ANNOTATING = frozenset({"typing", "__future__", "collections.abc"})
_UNDER_GUARD = "_under_guard"
_CHECKER = f"check{_UNDER_GUARD}"
# Modules that the judge itself needs.
_OF_JUDGE = {"decimal", "fractions"}
# What an answer's functions return, made anew of Python's own types: whatever a subclass overrides
# is not asked. Anything else ends in a TypeError. How the tests' numbers are rounded is not theirs.
_JUDGE = """
def plain_under_guard(value):
    if value is None or value is True or value is False:
        return value
    for kind in (int, float, complex):
        if isinstance(value, kind):
            return kind.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes.__add__(b"", value)
    for kind in (fractions.Fraction, decimal.Decimal):
        if isinstance(value, kind):
            return kind(value)
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind([plain_under_guard(each) for each in kind.__iter__(value)])
    return {
        plain_under_guard(key): plain_under_guard(each) for key, each in dict.items(value)
    }


def facing_under_guard(function):
    def called(*given, **named):
        found = plain_under_guard(function(*given, **named))
        signals = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
        rounding = decimal.ROUND_HALF_EVEN
        decimal.setcontext(decimal.Context(prec=28, rounding=rounding, traps=signals))
        return found

    return called


def print(*values, **options):
    pass


def answer_under_guard():
    pass


answered_under_guard = answer_under_guard()


def check_under_guard(number):
    pass
"""


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


def holding_for(
    sandbox: Sandbox,
    answer: str,
    statements: Sequence[str],
    *,
    names: Sequence[str],
    tests: str = "",
    helpers: str = "",
) -> list[bool]:
    """Which of the statements run without an error for the functions `names` of an answer.

    Args:
        sandbox: guarded processes.
        answer: source that defines the functions; not trusted.
        statements: what must hold; trusted, as the next two are.
        names: functions of the answer that the tests may call.
        tests: source that runs before each statement and sees the functions.
        helpers: source that the tests may use.
    """
    failed = [False] * len(statements)
    parts = [parsed(source) for source in (answer, tests, helpers, *statements)]
    if not statements or any(part is None or not _compiles(part) for part in parts):
        return failed
    answering, testing = _Rewriting(ALLOWED_MODULES), _Rewriting(ALLOWED_MODULES + TEST_MODULES)
    try:
        bodies = [
            (testing if place else answering).visit(part).body
            for place, part in enumerate(parts)
            if part is not None
        ]
    except (_Refused, RecursionError):
        return failed
    program = _judged_program(*bodies, names=names)
    modules = answering.modules | testing.modules | _OF_JUDGE
    return _held(sandbox, program, modules, len(statements))


def _judged_program(
    answer: list[ast.stmt],
    tests: list[ast.stmt],
    helpers: list[ast.stmt],
    *statements: list[ast.stmt],
    names: Sequence[str],
) -> ast.Module:
    """Helpers in the module, the answer in one function of it, its tests in another."""
    judge = ast.parse(_JUDGE)
    *_, answering, _, checking = judge.body
    assert isinstance(answering, ast.FunctionDef) and isinstance(checking, ast.FunctionDef)
    given = f"return ({''.join(f'{name}, ' for name in names)})"
    # What is global to the answer is this function's: the module's names stay the tests' own, and
    # what they draw with is not to be seeded by what they test.
    in_function = _InFunction()
    moved = [in_function.visit(statement) for statement in answer]
    own = " = ".join(sorted(in_function.names.union(TEST_MODULES)))
    answering.body = [*ast.parse(f"if 0: {own} = 0").body, *moved, *ast.parse(given).body]
    taken = [
        f"{name} = facing_under_guard(answered_under_guard[{place}])"
        for place, name in enumerate(names)
    ]
    checking.body = [*ast.parse("\n".join(taken)).body, *tests]
    for number, statement in enumerate(statements):
        test = ast.parse(f"number == {number}", mode="eval").body
        checking.body.append(ast.If(test, [*statement, *ast.parse("return 1").body], []))
    return ast.Module([*helpers, *judge.body], [])


class _InFunction(ast.NodeTransformer):
    """A module's statements to those of a function: `global x` to `nonlocal x`, outside to none."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Inside, the function around all of the answer is its module."""
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        """The names are to be bound somewhere in the function around all."""
        self.names.update(node.names)
        return ast.Nonlocal(node.names) if self._depth else ast.Pass()


def _compiles(tree: ast.Module) -> bool:
    """Whether it would be a module as it is: one without `return`, say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, "<answer>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _held(sandbox: Sandbox, program: ast.Module, modules: set[str], count: int) -> list[bool]:
    try:
        code = ast.unparse(ast.fix_missing_locations(program))
    except RecursionError:
        return [False] * count
    return [outcome == Outcome("ok", "1") for outcome in _called(sandbox, code, modules, count)]


def _called(sandbox: Sandbox, code: str, modules: set[str], count: int) -> list[Outcome]:
    return sandbox.run(
        code,
        name=_CHECKER,
        arguments=[f"({number},)" for number in range(count)],
        modules=tuple(sorted(modules)),
    )


def _run(sandbox: Sandbox, source: str, bodies: Sequence[str]) -> list[Outcome]:
    refused = [Outcome("refused", "")] * len(bodies)
    parts = [parsed(source), *map(parsed, bodies)]
    if not bodies or any(part is None for part in parts):
        return refused
    rewriting = _Rewriting(ALLOWED_MODULES)
    checker = ast.parse(f"def {_CHECKER}(number):\n    pass").body[0]
    assert isinstance(checker, ast.FunctionDef)
    try:
        module, *checks = [rewriting.visit(part).body for part in parts if part is not None]
        for number, body in enumerate(checks):
            test = ast.parse(f"number == {number}", mode="eval").body
            checker.body.append(ast.If(test, body, []))
        code = ast.unparse(ast.fix_missing_locations(ast.Module([*module, checker], [])))
    except (_Refused, RecursionError):
        return refused
    return _called(sandbox, code, rewriting.modules, len(bodies))


class _Refused(Exception):
    """The code reaches for something that the guarded process does not give."""


class _Rewriting(ast.NodeTransformer):
    """Imports to names, annotations out; raises `_Refused`."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed
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
            if module not in self._allowed or attribute == "*" or is_way_out(attribute or ""):
                raise _Refused(module)
            self.modules.add(module)
            value: ast.expr = ast.Name(module, ast.Load())
            if attribute is not None:
                value = ast.Attribute(value, attribute, ast.Load())
            if attribute is not None or name != module:
                statements.append(ast.Assign([ast.Name(name, ast.Store())], value))
        return statements

    def visit(self, node: ast.AST) -> Any:
        """Nothing that reaches out of the code."""
        if reaches_out(node):
            raise _Refused(ast.unparse(node))
        return super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Names with two underscores are private too; those of the judge are its own."""
        if node.id.startswith("__") or node.id.endswith(_UNDER_GUARD):
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
