import ast
import random

import pytest

from instructrec_jax.instructions.syntax_errors import SLIPS, break_syntax

FUNCTION = """\
def total(values, *, skip=None):
    result = 0
    for value in values:
        if value == skip:
            continue
        result += len("x" * value)
    return (result)
"""


@pytest.mark.parametrize(
    ("kind", "line", "changed"),
    [
        ("missing colon", "    if a:", "    if a"),
        ("missing colon", "    x = {1:", ""),
        ("missing closing bracket", "    f(a, (b))", "    f(a, (b)"),
        ("missing closing bracket", "    if f(a):", "    if f(a:"),
        ("missing closing bracket", "    a)", ""),
        ("missing closing quote", "    x = 'a b'", "    x = 'a b"),
        ("missing closing quote", "    x = 'a' + 'b'", ""),
        ("wrong indentation", "    return a", "        return a"),
        ("wrong indentation", "def f():", ""),
        ("`=` in place of `==`", "    if a == b:", "    if a = b:"),
        ("`=` in place of `==`", "    c = a == b", ""),
        ("misspelt keyword", "    return a", "    retrun a"),
        ("misspelt keyword", "    returned = a", ""),
    ],
)
def test_each_slip_on_a_line(kind, line, changed):
    assert SLIPS[kind](line) == changed


def test_broken_code_differs_in_one_line_and_does_not_parse():
    kinds = set()
    for seed in range(60):
        broken = break_syntax(FUNCTION, choose=random.Random(seed))
        with pytest.raises(SyntaxError) as error:
            ast.parse(broken.code)
        assert broken.message == f"{error.type.__name__}: {error.value.msg}"
        assert broken.message_line == error.value.lineno
        old, new = FUNCTION.split("\n"), broken.code.split("\n")
        differing = [i for i, (a, b) in enumerate(zip(old, new, strict=True), 1) if a != b]
        assert differing == [broken.line]
        assert (old[broken.line - 1], new[broken.line - 1]) == (broken.before, broken.after)
        kinds.add(broken.kind)
    assert kinds == set(SLIPS)
    assert break_syntax(FUNCTION, choose=random.Random(3)) == break_syntax(
        FUNCTION, choose=random.Random(3)
    )


def test_code_without_a_place_for_a_slip():
    assert break_syntax("x", choose=random.Random(0)) is None
    assert break_syntax('"""if a:\nb"""', choose=random.Random(0)) is None
