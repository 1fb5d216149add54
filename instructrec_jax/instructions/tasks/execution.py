"""Tasks whose targets come from running the code, from `python_definition` documents."""

import ast
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.execution import Outcome
from instructrec_jax.instructions.pure_functions import examined
from instructrec_jax.instructions.tasks.runs import Run, mutant_runs, original_run, real_bugs

_CALLS_KEPT = 10
# Calls of one function that may give the same result.
_SAME_RESULT = 2
_BUG_REFERENCES = 5
_INPUTS_PER_FUNCTION = 3


def _runs(document: Document, context: Context) -> list[Run]:
    original = original_run(document, context)
    return [] if original is None else [original, *mutant_runs(document, context)]


def predict_output(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a call → the value that it returns.

    Calls that gave no value that can be written down, functions whose calls all gave the same one,
    and functions that are not run for what they may do make drafts that are rejected.
    """
    refusal = examined(document.content)
    if isinstance(refusal, str) and refusal:
        yield Draft({"input": document.content["code"]}, target="", rejected=f"not_run_{refusal}")
    for run in _runs(document, context):
        constant = len(set(run.results.values())) < 2
        kept: dict[str, int] = {}
        for call, outcome in run.outcomes.items():
            fields = {"input": f"{run.listing}\n\n{call}", "call": call}
            if outcome.kind != "ok" or constant:
                reason = "constant" if outcome.kind == "ok" else outcome.kind
                yield Draft(fields, target=outcome.text, rejected=f"execution_{reason}")
                continue
            same = kept.get(outcome.text, 0)
            if same < _SAME_RESULT and sum(kept.values()) < _CALLS_KEPT:
                kept[outcome.text] = same + 1
                yield Draft(fields, target=outcome.text)


_TYPES = ("bool", "bytes", "dict", "float", "int", "list", "NoneType", "str", "tuple")


def predict_type(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a call → the type of the value that it returns."""
    run = original_run(document, context)
    if run is None:
        return
    kept: dict[str, int] = {}
    for call, outcome in run.outcomes.items():
        kind = type(ast.literal_eval(outcome.text)).__name__ if outcome.kind == "ok" else ""
        if kind in _TYPES and kept.get(kind, 0) < _SAME_RESULT:
            kept[kind] = kept.get(kind, 0) + 1
            choose = context.random(document, "types", call)
            options = tuple(choose.sample(_TYPES, len(_TYPES)))
            fields = {"input": f"{run.listing}\n\n{call}", "call": call, "options": options}
            yield Draft(fields, target=kind, options=options)


def predict_input(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a value → a call that returns it; all that did count."""
    run = original_run(document, context)
    if run is None or len(set(run.results.values())) < 2:
        return
    calls_of: dict[str, list[str]] = {}
    for call, value in run.results.items():
        calls_of.setdefault(value, []).append(call)
    # A value that says something: one that few calls give.
    rarest = sorted(calls_of, key=lambda value: len(calls_of[value]))[:_INPUTS_PER_FUNCTION]
    for value in rarest:
        calls = sorted(calls_of[value], key=len)[:_CALLS_KEPT]
        fields = {"input": f"{run.listing}\n\nResult: {value}", "value": value}
        yield Draft(fields, target=calls[0], references=tuple(calls))


def expose_bug(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a changed version → a call that tells them apart; all such calls count."""
    original = original_run(document, context)
    for changed, telling in real_bugs(document, context):
        assert original is not None
        sentences = [
            f"{call} gives {original.outcomes[call].text} before "
            f"and {told(changed.outcomes[call])} after."
            for call in telling
        ]
        sentences = sorted(sentences, key=len)[:_BUG_REFERENCES]
        fields = {"input": f"Before:\n{original.listing}\n\nAfter:\n{changed.listing}"}
        yield Draft(fields, target=sentences[0], references=tuple(sentences))


def told(outcome: Outcome) -> str:
    """What a call gave, for a sentence."""
    return outcome.text if outcome.kind == "ok" else f"an error ({outcome.text})"


def explain_call(document: Document, context: Context) -> Iterator[Draft]:
    """A function with defaults and a call → what each parameter is, and what comes back."""
    run = original_run(document, context)
    if run is None or len(set(run.results.values())) < 2:
        return
    defaults = _defaults(run.function.code)
    names = run.function.parameters
    results, seen = run.results, set()
    for values, call in zip(run.arguments, run.outcomes, strict=True):
        if call not in results or len(values) in seen or len(names) + len(defaults) < 2:
            continue
        # One call for each number of arguments.
        seen.add(len(values))
        parts = [f"`{name}` is {value!r}" for name, value in zip(names, values, strict=False)]
        given = set(names[: len(values)])
        parts += [
            f"`{name}` keeps its default {default}"
            for name, default in defaults.items()
            if name not in given
        ]
        listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        fields = {"input": f"{run.listing}\n\n{call}", "call": call}
        yield Draft(fields, target=f"{listed}. The call returns {results[call]}.")


def _defaults(code: str) -> dict[str, str]:
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first = len(positional) - len(arguments.defaults)
    pairs = list(zip(positional[first:], arguments.defaults, strict=True))
    pairs += [
        (name, value)
        for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if value is not None
    ]
    return {name.arg: ast.unparse(value) for name, value in pairs}
