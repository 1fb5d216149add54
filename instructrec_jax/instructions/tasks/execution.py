"""Tasks whose targets come from running the code, from `python_code` documents."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.execution import Outcome
from instructrec_jax.instructions.mutation import sample_mutants
from instructrec_jax.instructions.pure_functions import (
    PureFunction,
    pure_function,
    sample_arguments,
)

# Argument tuples tried for each function; many do not fit its types and raise.
_CALLS_TRIED = 80
_CALLS_KEPT = 10
# Calls of one function that may give the same result.
_SAME_RESULT = 2
_MUTANTS_PER_FUNCTION = 3
_BUG_REFERENCES = 5


@dataclass(frozen=True)
class _Run:
    """A function, or a mutant of it, and what each call gave."""

    function: PureFunction
    listing: str
    arguments: tuple[tuple, ...]
    outcomes: dict[str, Outcome]


def _original(document: Document, context: Context) -> list[_Run]:
    """The function's run; [] where it is not pure."""

    def execute() -> list[_Run]:
        function = pure_function(document.content)
        if function is None:
            return []
        choose = context.random(document, "arguments")
        arguments = sample_arguments(function, count=_CALLS_TRIED, choose=choose)
        return [_run(function, function.code, arguments, context)]

    return context.remember(document, "original", execute)


def _mutants(document: Document, context: Context) -> list[_Run]:
    """Runs of the function's mutants, on the arguments that fit its types."""

    def execute() -> list[_Run]:
        runs = []
        for original in _original(document, context):
            if len(_results(original)) < 2:
                continue
            pairs = zip(original.arguments, original.outcomes.values(), strict=True)
            fitting = [values for values, outcome in pairs if outcome.kind == "ok"]
            function = original.function
            mutants = sample_mutants(
                function.code,
                count=_MUTANTS_PER_FUNCTION,
                choose=context.random(document, "mutants"),
            )
            runs += [_run(function, mutant.code, fitting, context) for mutant in mutants]
        return runs

    return context.remember(document, "mutants", execute)


def _run(function: PureFunction, code: str, arguments: list[tuple], context: Context) -> _Run:
    outcomes = context.sandbox.run(
        code,
        name=function.name,
        arguments=[repr(values) for values in arguments],
        modules=function.modules,
    )
    calls = [f"{function.name}({', '.join(map(repr, values))})" for values in arguments]
    return _Run(
        function=function,
        listing=function.listing.replace(function.code, code),
        arguments=tuple(arguments),
        outcomes=dict(zip(calls, outcomes, strict=True)),
    )


def _results(run: _Run) -> set[str]:
    return {outcome.text for outcome in run.outcomes.values() if outcome.kind == "ok"}


def predict_output(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a call → the value that it returns.

    Calls that gave no value that can be written down, and functions whose calls all gave the same
    one, make drafts that are rejected.
    """
    for run in [*_original(document, context), *_mutants(document, context)]:
        constant = len(_results(run)) < 2
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
    for run in _original(document, context):
        kept: dict[str, int] = {}
        for call, outcome in run.outcomes.items():
            kind = type(ast.literal_eval(outcome.text)).__name__ if outcome.kind == "ok" else ""
            if kind in _TYPES and kept.get(kind, 0) < _SAME_RESULT:
                kept[kind] = kept.get(kind, 0) + 1
                choose = context.random(document, "types", call)
                options = tuple(choose.sample(_TYPES, len(_TYPES)))
                fields = {"input": f"{run.listing}\n\n{call}", "call": call, "options": options}
                yield Draft(fields, target=kind, options=options)


def expose_bug(document: Document, context: Context) -> Iterator[Draft]:
    """A function and a changed version → a call that tells them apart; all such calls count."""
    for original in _original(document, context):
        for changed in _mutants(document, context):
            telling = [
                f"{call} gives {original.outcomes[call].text} before and {_told(wrong)} after."
                for call, wrong in changed.outcomes.items()
                if wrong != original.outcomes[call] and wrong.kind in ("ok", "raised")
            ]
            telling = sorted(telling, key=len)[:_BUG_REFERENCES]
            if telling:
                fields = {"input": f"Before:\n{original.listing}\n\nAfter:\n{changed.listing}"}
                yield Draft(fields, target=telling[0], references=tuple(telling))


def _told(outcome: Outcome) -> str:
    return outcome.text if outcome.kind == "ok" else f"an error ({outcome.text})"
