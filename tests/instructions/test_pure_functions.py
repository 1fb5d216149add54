import ast
import random

import pytest

from instructrec_jax.instructions.pure_functions import (
    examined,
    pure_function,
    sample_arguments,
)
from instructrec_jax.instructions.sources import python_code


def content(source, name="f"):
    found = python_code.definitions(source, uri="m.py", licence="")
    return next(d.content for d in found if d.content["name"] == name)


def test_a_pure_function_and_what_it_needs():
    code = "def f(x, *, base=2):\n    y = math.log(x, base)\n    return f(y) if y else len(str(x))"
    function = pure_function(content(f"import math\n\n{code}\n"))
    assert function is not None
    assert (function.name, function.parameters, function.required) == ("f", ("x",), 1)
    assert function.modules == ("math",)
    assert function.listing == f"import math\n\n{code}"


@pytest.mark.parametrize(
    "body",
    [
        "return open(x)",
        "return os.getcwd()",
        "import os\n    return x",
        "return x.__class__",
        "return x._private",
        "global y\n    y = x",
        "yield x",
        "with x: return 1",
        "class A: pass\n    return A",
        "return helper(x)",
        "return eval(x)",
        "return getattr(x, 'y')",
        "print(x)",
        "return datetime.date.today()",
    ],
)
def test_what_is_not_pure(body):
    assert pure_function(content(f"import os, datetime\n\ndef f(x):\n    {body}\n")) is None


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    return 1\n",
        "def f(a, b, c, d, e):\n    return a\n",
        "def f(x, *, y):\n    return x\n",
        "async def f(x):\n    return x\n",
        "class f(list):\n    x = 1\n",
        "def f(x):\n" + "    x += 1\n" * 30 + "    return x\n",
    ],
)
def test_functions_that_cannot_be_called_alone(source):
    assert pure_function(content(source)) is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x):\n    return open(x)\n", "name"),
        ("def f(x):\n    import os\n    return x\n", "statement"),
        ("async def f(x):\n    return x\n", "statement"),
        ("def f(x):\n    return x.__class__\n", "attribute"),
        ("def f():\n    return 1\n", "signature"),
        ("def f(x):\n" + "    x += 1\n" * 30 + "    return x\n", "length"),
        ("class f(list):\n    x = 1\n", ""),
    ],
)
def test_why_a_function_is_not_run(source, reason):
    assert examined(content(source)) == reason


@pytest.mark.parametrize(
    "body",
    [
        # Ways to the frames of the program that runs it, by which it would forge what came of it.
        "running = (running.gi_frame.f_back for _ in x)\n    return next(running)",
        "match (y for y in x):\n        case int(gi_frame=frame): return frame",
        "return '{0.gi_frame.f_back.f_locals}'.format(y for y in x)",
        "return x.format(len)",
        "return '{0.gi_frame}'.format_map(x)",
        "try:\n        1 // 0\n    except Exception as error:\n        return error.tb_frame",
        # And to a thing that is equal to all.
        "functools.update_wrapper(collections.UserDict, x)",
        "collections.UserDict.trick = x",
        "del x.trick",
        "return re.RegexFlag.mro()",
    ],
)
def test_no_way_out_by_an_attribute(body):
    code = f"import collections, functools, re\n\ndef f(x):\n    {body}\n"
    assert examined(content(code)) == "attribute"


def test_texts_are_formatted():
    assert pure_function(content("def f(x):\n    return '{0}.{1:.2f}'.format(x, x)\n"))


def test_methods_are_left_out():
    assert pure_function(content("class A:\n    def f(self):\n        return 1\n")) is None


def test_arguments_are_literals_that_differ_and_fit_the_signature():
    function = pure_function(content("def f(path, n, flag=None):\n    return path\n"))
    assert function is not None
    arguments = sample_arguments(function, count=50, choose=random.Random(0))
    assert 40 <= len(arguments) <= 50
    assert len({repr(values) for values in arguments}) == len(arguments)
    assert all(ast.literal_eval(repr(values)) == values for values in arguments)
    assert {len(values) for values in arguments} == {2, 3}
    # Names speak: a path is mostly a text, n mostly a whole number.
    assert sum(isinstance(values[0], str) for values in arguments) > 35
    assert sum(type(values[1]) is int for values in arguments) > 35
    assert arguments == sample_arguments(function, count=50, choose=random.Random(0))
