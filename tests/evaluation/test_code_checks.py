"""Code of answers, run under guard: what passes, what does not, and what is never run."""

import pytest

from instructrec_jax.evaluation.code_checks import CHECKS, checks_of, doctest_assertions, passes
from instructrec_jax.evaluation.guarded_code import (
    assertions_of,
    code_of,
    holding,
    holding_for,
    outcomes,
)
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.execution import Sandbox

RIGHT = "def add(a, b):\n    if a > 3:\n        return a + b\n    return a - b"
WRONG = RIGHT.replace("a + b", "a * b")
CASES = {
    "repair_function": (
        f"{WRONG}\n\nassert add(4, 2) == 6",
        RIGHT,
        ["def add(a, b):\n    return 6", f"```python\n{RIGHT}\n```"],
        [WRONG, "", "add", "import os\ndef add(a, b):\n    return 6"],
    ),
    "write_tests": (
        RIGHT,
        "assert add(4, 2) == 6\nassert add(1, 2) == -1\nassert add(3, 2) == 1",
        ["assert add(9, 2) == 11"],
        # Wrong; true of every change; nothing; something else than assertions.
        ["assert add(4, 2) == 7", "assert True", "", "add = 1\nassert add"],
    ),
    "complete_test": (
        f"{RIGHT}\n\nassert add(4, 2) == 6\nassert add(1, 2) == ____",
        "-1",
        [" -1\n", "-1.0"],
        ["1", "____", "add(1, 2)", "-1 or True"],
    ),
    "expose_bug": (
        f"Before:\n{RIGHT}\n\nAfter:\n{WRONG}",
        "add(4, 2) gives 6 before and 8 after.",
        ["add(5, 1) gives 6 before and 5 after."],
        [
            "add(1, 2) gives -1 before and -1 after.",
            "add(5, 1) gives 6 before and 6 after.",
            "add(1, 2) gives -1 before and -1.0 after.",
            "add(5, add(1, 1)) gives 5 before and 0 after.",
            "?",
        ],
    ),
    "predict_input": (
        f"{RIGHT}\n\nResult: 6",
        "add(4, 2)",
        ["add(b=1, a=5)"],
        ["add(1, 2)", "6", "len('abcdef') and 6", "int(6)", "add(4.0, 2)"],
    ),
    "write_body": (
        'def add(a, b):\n    """Add.\n\n    >>> add(1, 2)\n    3\n    """',
        "    return a + b",
        ["    total = a + b\n    return total"],
        ["    return a - b", "return a + b", "    import os\n    return a + b"],
    ),
}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(seconds=1.0) as sandbox:
        yield sandbox


def example(task, **changes):
    material, target, *_ = CASES[task]
    fields = {"instruction": "Do it.", "input": material, "target": target, **changes}
    return InstructionExample(id=task, task=task, **fields)


@pytest.mark.parametrize("task", CHECKS)
def test_what_passes_and_what_does_not(task, sandbox):
    _, target, good, bad = CASES[task]
    asked = example(task)
    checks, failing = checks_of([asked], sandbox, {})
    assert not failing
    outputs = [target, *good, *bad]
    found = passes([asked] * len(outputs), outputs, sandbox, checks)
    assert found == [True] * (1 + len(good)) + [False] * len(bad)


def test_examples_without_what_is_needed_have_no_check(sandbox):
    examples = [
        # The target itself does not pass: what it needs is not there.
        example("repair_function", target="def add(a, b):\n    return os.getpid()"),
        example("write_tests", target="no assertions"),
        example("write_body", input='def add(a, b):\n    """Add."""'),
        InstructionExample(id="x", task="summarise", instruction="", input="x", target="y"),
    ]
    for each in examples:
        checks, failing = checks_of([each], sandbox, {})
        assert checks == {} and failing == ([each.id] if each is examples[0] else [])
    assert passes(examples[:1], ["x"], sandbox, {}) == [None]


def test_material_inside_the_instruction(sandbox):
    material, *_ = CASES["repair_function"]
    inside = example("repair_function", instruction=f"Fix {material}", input="", material=material)
    assert list(checks_of([inside], sandbox, {})[0]) == ["repair_function"]


def test_hostile_code_is_refused_or_ends(sandbox, tmp_path):
    mark = tmp_path / "mark"
    hostile = [
        f"open({str(mark)!r}, 'w').write('x')",
        f"import os\nos.mkdir({str(mark)!r})",
        f"__import__('os').mkdir({str(mark)!r})",
        "().__class__.__base__.__subclasses__()",
        "from os import system",
        "import math\nmath._x",
    ]
    for code in hostile:
        assert holding(sandbox, code, ["assert True"]) == [False]
        assert not mark.exists()
    (outcome,) = outcomes(sandbox, "def f():\n    while True:\n        pass", ["f()"])
    assert outcome.kind == "steps"


# Wrong answers that would pass if the tests believed what they are given.
EQUAL_TO_ALL = """
import collections, functools
trick = functools.cached_property(lambda item: lambda *given: True)
trick.attrname = "__eq__"
collections.UserDict.trick = trick
collections.UserDict().trick
functools.update_wrapper(
    collections.UserDict, collections.UserDict(), assigned=("__eq__",), updated=()
)
def f(x): return collections.UserDict()
"""
FORGING = """
def running():
    yield itself.gi_frame.f_back
itself = running()
frame = next(itself)
while frame is not None:
    if "send" in frame.f_locals:
        frame.f_locals["send"](frame.f_locals["write"], b'[["ok", "1"]]\\n')
    if "leave" in frame.f_locals:
        frame.f_locals["leave"](0)
    frame = frame.f_back
def f(x): return 0
"""
FAKES = {
    "a builtin of the tests, renamed": "def abs(x): return 0\ndef f(x): return 9.0",
    "the same, globally": "abs = 1\ndef f(x):\n    global abs\n    abs = len\n    return ''",
    "an object that equals everything": EQUAL_TO_ALL,
    "a subclass of int that does": "import re\nF = re.RegexFlag.mro()[-2]\n"
    "X = F('X', {'__eq__': lambda *a: True, 'A': 1}, type=int)\ndef f(x): return X.A",
    "an answer written into the pipe": FORGING,
    "frames by a pattern": FORGING.replace(
        "yield itself.gi_frame.f_back",
        "match itself:\n        case anything(gi_frame=held): yield held",
    ),
    "frames by a text": "def f(x): return len('{0.gi_frame}'.format(x for x in x))",
    "the same, put together": "def f(x): return int(('{0.gi' + '_frame}').format(2))",
    "what tests draw with": "def f(x): return random.seed(0) or copy.copy(3)",
    "a number registered": "import collections, fractions\n"
    "fractions.Fraction.register(collections.UserString)\n"
    "def f(x): return collections.UserString('3')",
    "what decimals are rounded to": "from decimal import *\ndef f(x): return 9.0",
    "the same by its name": "import decimal\ndecimal.setcontext(decimal.Context(prec=1))\n"
    "def f(x): return 3",
    "the first day of the week": "import calendar\ncalendar.setfirstweekday(6)\ndef f(x): return 3",
    "a module of the judge, globally": "def f(x):\n    global decimal, isinstance\n"
    "    decimal = isinstance = 3\n    return 9.0",
    "the check by its name": "def f(x): return check_under_guard(0)",
    "an end without an error": "def f(x):\n    return 3\nreturn (f,)",
}


@pytest.mark.parametrize("answer", FAKES.values(), ids=FAKES.keys())
def test_a_faked_success_does_not_pass(answer, sandbox):
    statement = "assert abs(f(2) - 3) < 0.1 or f(2) == 3"
    tests = "import copy, random"
    assert holding_for(sandbox, answer, [statement], names=["f"], tests=tests) == [False]


def test_what_an_answer_leaves_open_does_not_round_the_tests_numbers(sandbox):
    answer = (
        "from decimal import Decimal, localcontext, getcontext\n"
        "def rounding():\n    with localcontext(prec=1):\n        yield\n"
        "held = rounding()\n"
        "def f():\n    next(held, None)\n    getcontext().clear_traps()\n    return Decimal(3)"
    )
    statements = [
        "assert f() + Decimal(0) == Decimal('3.14159') + 0",
        "assert f() == 3 and Decimal('3.14159') + 0 != 3",
        "assert f() / Decimal(0) != 1",
    ]
    tests = "from decimal import Decimal"
    assert holding_for(sandbox, answer, statements, names=["f"], tests=tests) == [
        *(False, True, False)
    ]


def test_honest_answers_keep_their_globals_and_containers(sandbox):
    answer = (
        "from collections import Counter, defaultdict\nglobal seen\nseen = 0\n"
        "def f(x):\n    global seen\n    seen += 1\n"
        "    found = defaultdict(list)\n    found['{:.1f}'.format(x)].append((x, {x}, b'', True))\n"
        "    return found\n"
        "from fractions import Fraction\nfrom decimal import Decimal\n"
        "def h():\n    global last, copy\n    last, copy = Fraction(6, 4), [Decimal('0.10')]\n"
        "    return last, copy\n"
        "def g(x): return 0 if x == 0 else seen + g(x - 1) + Counter('a')['a']\n"
    )
    exact = "from fractions import Fraction\nassert h()[0] == Fraction(3, 2)\n"
    exact += "assert str(h()[1][0]) == '0.10'"
    statements = [
        exact,
        "assert f(2) == {'2.0': [(2, {2}, b'', True)]}",
        "assert g(2) == 2 + limit()",
    ]
    held = holding_for(
        sandbox, answer, statements, names=["f", "g", "h"], helpers="def limit(): return 2"
    )
    assert held == [True, True, True]


def test_honest_imports_and_annotations(sandbox):
    source = (
        "from typing import List\nimport math as m\nfrom collections import Counter\n"
        "import string\n\n"
        "def f(words: List[str], n: int = 2) -> List[str]:\n"
        "    found: List[str] = []\n    rest: int\n"
        "    from re import sub\n"
        "    for word, count in Counter(words).items():\n"
        "        if count == m.floor(n):\n"
        "            found.append(sub('x', string.digits[0], word))\n"
        "    return found\n"
    )
    (outcome,) = outcomes(sandbox, source, ["f(['ax', 'b', 'ax'])"])
    assert (outcome.kind, outcome.text) == ("ok", "['a0']")


def test_reading_code():
    assert code_of("Here:\n```py\nx = 1\n```\nDone") == "x = 1\n"
    assert code_of("```\nx = 1") == "x = 1"
    assert code_of("    return 1") == "    return 1"
    assert assertions_of("assert a == 1\nassert b, 'why'") == ["assert a == 1", "assert b, 'why'"]
    assert assertions_of("def") is None
    session = (
        "A.\n\n>>> f(1)\n2\n>>> print(3)\n3\n>>> f(0)\nTraceback (most recent call last):\nE\n"
    )
    assert doctest_assertions(session)[:1] == ["assert (f(1)) == (2)"]
