"""Small mistakes put into working code: each a change inside one line, found by the syntax tree.

The text is edited in place, so that comments and layout stay as the author wrote them.
"""

import ast
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_COMPARISONS = {
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    ">": (">=", "<"),
    ">=": (">", "<="),
}
_NEGATIONS = {
    "==": ("!=",),
    "!=": ("==",),
    "in": ("not in",),
    "not in": ("in",),
    "is": ("is not",),
    "is not": ("is",),
}
_ARITHMETIC = {"+": ("-",), "-": ("+",), "*": ("+", "//"), "/": ("*",), "//": ("*",), "%": ("//",)}


@dataclass(frozen=True)
class Mutant:
    """Code with one mistake: `kind` (a key of `ALL_MISTAKES`), the line from 1, that line before
    and after (without the indentation), the whole changed code, and the words that were `removed`
    and `inserted` ("" for none).
    """

    kind: str
    line: int
    before: str
    after: str
    code: str
    removed: str
    inserted: str


@dataclass(frozen=True)
class _Edit:
    """Replace the characters start..end of a line (line from 1, UTF-8 byte offsets as in `ast`)."""

    line: int
    start: int
    end: int
    text: str


_Edits = Callable[[list[ast.AST], list[str]], Iterator[_Edit]]


def sample_mutants(
    code: str, *, count: int, choose: random.Random, kinds: Mapping[str, _Edits] | None = None
) -> list[Mutant]:
    """At most `count` mutants of a function's source, each of another one of `kinds` (`MISTAKES`).

    Every mutant parses, and differs from the code in its syntax tree. Code that does not parse has
    none.
    """
    tree = _parsed(code)
    if tree is None:
        return []
    nodes, lines = list(ast.walk(tree)), code.split("\n")
    sampled: list[Mutant] = []
    table = MISTAKES if kinds is None else kinds
    for kind in choose.sample(list(table), len(table)):
        edits = list(table[kind](nodes, lines))
        mutant = _applied(kind, choose.choice(edits), lines) if edits else None
        if mutant is not None:
            sampled.append(mutant)
        if len(sampled) == count:
            break
    return sampled


def _parsed(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _applied(kind: str, edit: _Edit, lines: list[str]) -> Mutant | None:
    """The mutant, or None where the edit gives no program (it cannot give the same one)."""
    before = lines[edit.line - 1]
    data = before.encode()
    after = (data[: edit.start] + edit.text.encode() + data[edit.end :]).decode()
    code = "\n".join([*lines[: edit.line - 1], after, *lines[edit.line :]])
    if _parsed(code) is None:
        return None
    return Mutant(
        kind=kind,
        line=edit.line,
        before=before.strip(),
        after=after.strip(),
        code=code,
        removed=data[edit.start : edit.end].decode().strip(),
        inserted=edit.text.strip(),
    )


def _comparison_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from _operator_edits(node.left, node.comparators[0], lines, _COMPARISONS)


def _arithmetic_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        # "%" after a text formats it, "+" joins texts: no number would come of the others.
        if isinstance(node, ast.BinOp) and not _is_text(node.left) and not _is_text(node.right):
            yield from _operator_edits(node.left, node.right, lines, _ARITHMETIC)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _operator_edits(
    left: ast.expr, right: ast.expr, lines: list[str], table: Mapping[str, tuple[str, ...]]
) -> Iterator[_Edit]:
    if left.end_lineno != right.lineno or left.end_col_offset is None:
        return
    line = right.lineno
    between = lines[line - 1].encode()[left.end_col_offset : right.col_offset].decode()
    match = re.fullmatch(r"(\)*\s*)(\S+|not\s+in|is\s+not)\s*\(*", between)
    if match is None:
        return
    start = left.end_col_offset + len(match[1])
    for replacement in table.get(" ".join(match[2].split()), ()):
        yield _Edit(line, start, start + len(match[2]), replacement)


def _off_by_one_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    """Whole numbers in ranges, subscripts, comparisons and sums, one up and one down."""
    for node in nodes:
        for number in _counting_numbers(node):
            if number.end_col_offset is None or number.lineno != number.end_lineno:
                continue
            source = lines[number.lineno - 1].encode()[number.col_offset : number.end_col_offset]
            value = number.value
            if source.decode() != str(value) or not isinstance(value, int):
                continue
            for changed in (value + 1, value - 1):
                if changed >= 0:
                    yield _Edit(
                        number.lineno, number.col_offset, number.end_col_offset, str(changed)
                    )


def _counting_numbers(node: ast.AST) -> list[ast.Constant]:
    candidates: list[ast.expr | None] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        candidates = [*node.args]
    elif isinstance(node, ast.Subscript):
        index = node.slice
        candidates = [index.lower, index.upper] if isinstance(index, ast.Slice) else [index]
    elif isinstance(node, ast.Compare):
        candidates = [*node.comparators]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        candidates = [node.right]
    return [
        item
        for item in candidates
        if isinstance(item, ast.Constant) and type(item.value) is int and item.value < 1000
    ]


def _wrong_name_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    """A variable in place of another one that the function has bound by then."""
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    if not functions:
        return
    arguments = functions[0].args
    bound = {a.arg: 0 for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    names = [node for node in ast.walk(functions[0]) if isinstance(node, ast.Name)]
    for node in names:
        if isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, node.lineno)
    order = sorted(bound)
    for node in names:
        if not isinstance(node.ctx, ast.Load) or node.id not in bound or node.id == "self":
            continue
        others = [n for n in order if n not in (node.id, "self") and bound[n] < node.lineno]
        if others:
            # One replacement a place, not always the same one.
            other = others[(node.lineno + node.col_offset) % len(others)]
            yield _Edit(node.lineno, node.col_offset, node.end_col_offset or 0, other)


def _missing_return_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        if isinstance(node, ast.Return) and node.value is not None:
            prefix = lines[node.lineno - 1].encode()[node.col_offset :].decode()
            if prefix.startswith("return ") and node.value.lineno == node.lineno:
                yield _Edit(node.lineno, node.col_offset, node.value.col_offset, "")


def _negated_condition_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    """Equality, identity and membership, and the tests of branches and loops, turned around."""
    for node in nodes:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from _operator_edits(node.left, node.comparators[0], lines, _NEGATIONS)
        if not isinstance(node, ast.If | ast.While | ast.IfExp):
            continue
        test = node.test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield _Edit(test.lineno, test.col_offset, test.operand.col_offset, "")
        elif isinstance(test, ast.Name | ast.Call | ast.Attribute | ast.Subscript):
            yield _Edit(test.lineno, test.col_offset, test.col_offset, "not ")


def _swapped_argument_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    """Two arguments side by side, each in the other's place."""
    for node in nodes:
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in _SYMMETRIC:
            continue
        for first, second in zip(node.args, node.args[1:], strict=False):
            places = (first.lineno, first.end_lineno, second.lineno, second.end_lineno)
            starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
            if len(set(places)) > 1 or starred or second.end_col_offset is None:
                continue
            data = lines[first.lineno - 1].encode()
            left = data[first.col_offset : first.end_col_offset]
            between = data[first.end_col_offset : second.col_offset]
            right = data[second.col_offset : second.end_col_offset]
            if left != right and between.strip() == b",":
                text = (right + between + left).decode()
                yield _Edit(first.lineno, first.col_offset, second.end_col_offset, text)


# What gives the same for its arguments in any order.
_SYMMETRIC = frozenset({"min", "max", "math.hypot", "math.gcd", "operator.eq"})


def _wrong_constant_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    """True and False in each other's place, and None for either."""
    others = {"True": "False", "False": "True", "None": "False"}
    for node in nodes:
        if isinstance(node, ast.Constant) and str(node.value) in others:
            end = node.end_col_offset or 0
            if lines[node.lineno - 1].encode()[node.col_offset : end].decode() == str(node.value):
                yield _Edit(node.lineno, node.col_offset, end, others[str(node.value)])


def _connective_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        if isinstance(node, ast.BoolOp) and len(node.values) == 2:
            left, right = node.values
            yield from _operator_edits(left, right, lines, {"and": ("or",), "or": ("and",)})


def _missing_jump_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        if isinstance(node, ast.Continue | ast.Break):
            yield _Edit(node.lineno, node.col_offset, node.end_col_offset or 0, "pass")


def _missing_await_edits(nodes: list[ast.AST], lines: list[str]) -> Iterator[_Edit]:
    for node in nodes:
        if isinstance(node, ast.Await) and node.value.lineno == node.lineno:
            yield _Edit(node.lineno, node.col_offset, node.value.col_offset, "")


# The kinds of mistakes by name, as targets name them; a new kind is one entry. These are common
# enough that every one can be asked for; the tasks that classify choose among them.
MISTAKES: dict[str, _Edits] = {
    "comparison operator": _comparison_edits,
    "off by one": _off_by_one_edits,
    "arithmetic operator": _arithmetic_edits,
    "wrong name": _wrong_name_edits,
    "missing return": _missing_return_edits,
    "negated condition": _negated_condition_edits,
}
RARER_MISTAKES: dict[str, _Edits] = {
    "swapped arguments": _swapped_argument_edits,
    "wrong constant": _wrong_constant_edits,
    "wrong connective": _connective_edits,
    "missing jump": _missing_jump_edits,
    "missing await": _missing_await_edits,
}
ALL_MISTAKES: dict[str, _Edits] = {**MISTAKES, **RARER_MISTAKES}
