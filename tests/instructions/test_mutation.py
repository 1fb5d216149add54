import ast
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.mutation import (
    ALL_MISTAKES,
    MISTAKES,
    RARER_MISTAKES,
    sample_mutants,
)


def mutants(code):
    """The mutants of many samples: every one of a short function."""
    seeds = (random.Random(seed) for seed in range(60))
    count = len(ALL_MISTAKES)
    found = [
        m
        for seed in seeds
        for m in sample_mutants(code, count=count, choose=seed, kinds=ALL_MISTAKES)
    ]
    return list(dict.fromkeys(found))


def changes(code):
    return {(m.kind, m.line, m.before, m.after) for m in mutants(code)}


@pytest.mark.parametrize(
    ("line", "kind", "after"),
    [
        ("if a < b: pass", "comparison operator", "if a <= b: pass"),
        ("return a not in b", "negated condition", "return a in b"),
        ("return a is b", "negated condition", "return a is not b"),
        ("return (a) == (b)", "negated condition", "return (a) != (b)"),
        ("return range(3)", "off by one", "return range(4)"),
        ("return a[1:]", "off by one", "return a[0:]"),
        ("return a + b", "arithmetic operator", "return a - b"),
        ("return (a + b) * 2", "arithmetic operator", "return (a + b) // 2"),
        ("return a", "wrong name", "return b"),
        ("return a", "missing return", "a"),
        ("if not a: pass", "negated condition", "if a: pass"),
        ("if a: pass", "negated condition", "if not a: pass"),
        ("while a(b): pass", "negated condition", "while not a(b): pass"),
        ("return b(a, 1)", "swapped arguments", "return b(1, a)"),
        ("return b(3, a, k=2)", "swapped arguments", "return b(a, 3, k=2)"),
        ("return a is None", "wrong constant", "return a is False"),
        ("return b(k=True)", "wrong constant", "return b(k=False)"),
        ("return a and (b)", "wrong connective", "return a or (b)"),
        ("while a: break", "missing jump", "while a: pass"),
        ("for a in b: continue", "missing jump", "for a in b: pass"),
    ],
)
def test_each_kind_of_mistake(line, kind, after):
    assert (kind, 2, line, after) in changes(f"def f(a, b):\n    {line}\n")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('return "%d" % a', "arithmetic operator"),
        ('return "a" + b', "arithmetic operator"),
        ("return 'a < b'", "comparison operator"),
        ("return a == b", "comparison operator"),
        ("if a in b: pass", "comparison operator"),
        ("return a < b", "negated condition"),
        ("return", "missing return"),
        ("x = {3: a}", "off by one"),
        ("return a[0x10]", "off by one"),
        ("return self.a", "wrong name"),
        ("return max(a, b)", "swapped arguments"),
        ("return b(a, a)", "swapped arguments"),
        ("return b(*a, b)", "swapped arguments"),
        ("return 'True'", "wrong constant"),
        ("return a and b and a", "wrong connective"),
    ],
)
def test_what_is_left_alone(line, kind):
    assert kind not in {change[0] for change in changes(f"def f(a, b):\n    {line}\n")}


def test_comments_layout_and_wide_characters_stay():
    code = "def f(a, é):\n    # ≤ a\n    return  'é' < a   # é < a\n"
    (mutant,) = (m for m in mutants(code) if m.kind == "comparison operator" and ">" in m.after)
    assert mutant.code == "def f(a, é):\n    # ≤ a\n    return  'é' > a   # é < a\n"


def test_code_that_does_not_parse_has_no_mutants():
    assert sample_mutants("def f(:", count=2, choose=random.Random(0)) == []


FUNCTION = """\
def median(data, *, low=False):
    data = sorted(data)
    n = len(data)
    if not data or n < 0:
        raise ValueError("no data")
    if n % 2 == 1 or low:
        return data[(n - 1) // 2]
    i = n // 2
    return (data[i - 1] + data[i]) / 2
"""


def test_all_mutants_parse_and_differ_in_one_line():
    found = mutants(FUNCTION)
    present = set(MISTAKES) | {"wrong constant", "wrong connective"}
    assert {mutant.kind for mutant in found} == present and len(found) > 20
    for mutant in found:
        assert ast.dump(ast.parse(mutant.code)) != ast.dump(ast.parse(FUNCTION))
        old, new = FUNCTION.split("\n"), mutant.code.split("\n")
        differing = [i for i, (a, b) in enumerate(zip(old, new, strict=True), 1) if a != b]
        assert differing == [mutant.line]
        assert old[mutant.line - 1].strip() == mutant.before
        assert new[mutant.line - 1].strip() == mutant.after
        if mutant.removed:
            assert mutant.removed in mutant.before and mutant.inserted in mutant.after


def test_a_missing_await():
    code = "async def f(a):\n    return await a(1)\n"
    (mutant,) = (m for m in mutants(code) if m.kind == "missing await")
    assert (mutant.line, mutant.after, mutant.removed) == (2, "return a(1)", "await")


def test_rarer_mistakes_are_sampled_only_when_asked_for():
    for seed in range(20):
        for kinds in (None, RARER_MISTAKES):
            sampled = sample_mutants(FUNCTION, count=9, choose=random.Random(seed), kinds=kinds)
            assert {m.kind for m in sampled} <= set(kinds or MISTAKES)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_samples_are_of_different_kinds(seed, count):
    sampled = sample_mutants(FUNCTION, count=count, choose=random.Random(seed))
    assert len(sampled) == len({mutant.kind for mutant in sampled}) == count
