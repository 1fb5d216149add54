"""Tasks of writing tests. What is asserted of a function that can be run has been run."""

import ast
import doctest
from collections.abc import Iterator
from dataclasses import dataclass

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.runs import (
    Run,
    assertion,
    original_run,
    passing,
    real_bugs,
    wrong_call,
)

_ASSERTIONS = 3
_SESSION_LINES = (2, 8)
_LONGEST_LINE = 90


@dataclass(frozen=True)
class _Tests:
    """A function's run, and calls with the values that they give, the telling one last."""

    run: Run
    calls: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> list[str]:
        return [assertion(call, value) for call, value in self.calls]


def _tests(document: Document, context: Context) -> _Tests | None:
    """A few assertions that hold for the function, the last one false of a mutant.

    All of them are run, on both. The calls differ in what they give.
    """

    def compute() -> _Tests | None:
        original = original_run(document, context)
        if original is None:
            return None
        short = {
            call: value
            for call, value in original.results.items()
            if len(assertion(call, value)) <= _LONGEST_LINE
        }
        for changed, telling in real_bugs(document, context):
            last = wrong_call(original, changed, [call for call in telling if call in short])
            others = {value: call for call, value in reversed(short.items()) if call != last}
            chosen = sorted(others.values(), key=list(short).index)[: _ASSERTIONS - 1]
            if not last or not chosen:
                continue
            tests = _Tests(original, tuple((call, short[call]) for call in [*chosen, last]))
            fails = not passing(changed, tests.lines[-1:], context)[0]
            if fails and all(passing(original, tests.lines, context)):
                return tests
        return None

    return context.remember(document, "tests", compute)


def write_tests(document: Document, context: Context) -> Iterator[Draft]:
    """A function → assertions that hold for it, one of which a small mistake would break."""
    tests = _tests(document, context)
    if tests is not None:
        function = tests.run.function
        fields = {"input": tests.run.listing, "name": function.name, "count": len(tests.calls)}
        yield Draft(fields, target="\n".join(tests.lines))


def complete_test(document: Document, context: Context) -> Iterator[Draft]:
    """A function and tests whose last value is left out → the value; a mistake would change it."""
    tests = _tests(document, context)
    if tests is not None:
        value = tests.calls[-1][1]
        blanked = tests.lines[-1].removesuffix(value) + "____"
        text = "\n".join([tests.run.listing, "", *tests.lines[:-1], blanked])
        yield Draft({"input": text, "name": tests.run.function.name}, target=value)


def convert_doctest(document: Document, context: Context) -> Iterator[Draft]:
    """A docstring's interactive session → a test function for pytest.

    Sessions whose answers are literals, exceptions or nothing; others say too little.
    """
    docstring: str = document.content["docstring"]
    # A printed number looks like a returned one.
    if ">>>" not in docstring or "print(" in document.content["code"]:
        return
    try:
        session = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return
    shortest, longest = _SESSION_LINES
    converted = [_converted(example) for example in session]
    asserted = any(line.startswith("assert") for lines in converted for line in lines)
    if not shortest <= len(session) <= longest or not all(converted) or not asserted:
        return
    name = document.content["name"].strip("_").lower()
    body = "\n".join(f"    {line}" for lines in converted for line in lines)
    shown = "\n".join(f">>> {e.source.rstrip()}\n{e.want}".rstrip() for e in session)
    yield Draft({"input": shown, "name": name}, target=f"def test_{name}():\n{body}")


def _converted(example: doctest.Example) -> list[str]:
    """The lines of a test for an example; [] where it cannot be told what is to be tested."""
    source, want = example.source.strip(), example.want.strip()
    if "\n" in source or example.options or "#" in source:
        return []
    try:
        (statement,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        return []
    if example.exc_msg is not None:
        error = example.exc_msg.partition(":")[0].strip()
        return [f"with pytest.raises({error}):", f"    {source}"] if error.isidentifier() else []
    if not want:
        # An expression that shows nothing gave None, or is called for what it does.
        return [source]
    try:
        literal = repr(ast.literal_eval(want)) == want
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        literal = False
    printed = source.startswith(("print", "pprint"))
    if not literal or printed or not isinstance(statement, ast.Expr):
        return []
    loose = isinstance(
        statement.value, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.IfExp | ast.Lambda
    )
    if loose and want == "True":
        return [f"assert {source}"]
    if loose:
        return [f"assert ({source}) {'is' if want == 'False' else '=='} {want}"]
    return [assertion(source, want)]
