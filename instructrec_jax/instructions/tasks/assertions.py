"""Tasks of writing tests. What is asserted of a function that can be run has been run."""

import ast
import doctest
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.runs import Run, original_run, passing, real_bugs

_ASSERTIONS = 3
_SESSION_LINES = (2, 8)
_LONGEST_LINE = 90


def _assertion(call: str, value: str) -> str:
    return f"assert {call} {'is' if value in ('True', 'False', 'None') else '=='} {value}"


def _tests(document: Document, context: Context) -> tuple[Run, list[str]] | None:
    """The function's run and a few assertions that hold for it, the last one false of a mutant.

    All of them are run on both. The calls differ in what they give.
    """

    def compute() -> tuple[Run, list[str]] | None:
        original = original_run(document, context)
        bugs = real_bugs(document, context)
        if original is None or not bugs:
            return None
        results = original.results
        for changed, telling in bugs:
            lines = [_assertion(call, results[call]) for call in telling]
            last = next((line for line in lines if len(line) <= _LONGEST_LINE), "")
            others: dict[str, str] = {}
            for call, value in results.items():
                line = _assertion(call, value)
                if line != last and len(line) <= _LONGEST_LINE:
                    others.setdefault(value, line)
            tests = [*list(others.values())[: _ASSERTIONS - 1], last]
            if not last or len(tests) < 2:
                continue
            if all(passing(original, tests, context)) and not passing(changed, [last], context)[0]:
                return original, tests
        return None

    return context.remember(document, "tests", compute)


def write_tests(document: Document, context: Context) -> Iterator[Draft]:
    """A function → assertions that hold for it, one of which a small mistake would break."""
    found = _tests(document, context)
    if found is not None:
        run, tests = found
        fields = {"input": run.listing, "name": run.function.name, "count": len(tests)}
        yield Draft(fields, target="\n".join(tests))


def complete_test(document: Document, context: Context) -> Iterator[Draft]:
    """A function and tests whose last value is left out → the value; a mistake would change it."""
    found = _tests(document, context)
    if found is None:
        return
    run, tests = found
    *others, last = tests
    operator = " == " if " == " in last else " is "
    begun, _, value = last.rpartition(operator)
    text = "\n".join([run.listing, "", *others, f"{begun}{operator}____"])
    if ast.literal_eval(value) is not ...:
        yield Draft({"input": text, "name": run.function.name}, target=value)


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
    if isinstance(statement.value, ast.Compare | ast.BoolOp | ast.IfExp | ast.Lambda):
        return [
            f"assert ({source}) == {want}"
            if want not in ("True", "False")
            else f"assert {source}"
            if want == "True"
            else f"assert not ({source})"
        ]
    return [_assertion(source, want)]
