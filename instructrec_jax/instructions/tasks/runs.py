"""Runs of a document's function and of its mutants, shared by the tasks that need them."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from instructrec_jax.instructions.document import Context, Document
from instructrec_jax.instructions.execution import Outcome
from instructrec_jax.instructions.mutation import ALL_MISTAKES, Mutant, sample_mutants
from instructrec_jax.instructions.pure_functions import (
    PureFunction,
    pure_function,
    sample_arguments,
)

# Argument tuples tried for each function; many do not fit its types and raise.
_CALLS_TRIED = 80
_MUTANTS_PER_FUNCTION = 3
# What a function's calls share: after how many of them it is used up hangs on the machine's speed.
_USED_UP = frozenset({"memory", "timeout", "crashed"})


@dataclass(frozen=True)
class Run:
    """A function, or a `mutant` of it, and what each call gave.

    `code` is what was run, `listing` the same with the imports that it needs; `outcomes` by the
    call's source, in the order of `arguments`.
    """

    function: PureFunction
    code: str
    listing: str
    arguments: tuple[tuple, ...]
    outcomes: dict[str, Outcome]
    mutant: Mutant | None = None

    @property
    def results(self) -> dict[str, str]:
        """Call → value, of the calls that returned one."""
        return {call: o.text for call, o in self.outcomes.items() if o.kind == "ok"}

    @property
    def line(self) -> int:
        """The number of the mutant's line in the listing, from 1."""
        assert self.mutant is not None
        return self.mutant.line + self.listing.count("\n") - self.code.count("\n")


def original_run(document: Document, context: Context) -> Run | None:
    """The function's run; None where it is not pure."""

    def execute() -> Run | None:
        function = pure_function(document.content)
        if function is None:
            return None
        choose = context.random(document, "arguments")
        arguments = sample_arguments(function, count=_CALLS_TRIED, choose=choose)
        return _run(function, function.code, arguments, context)

    return context.remember(document, "original", execute)


def mutant_runs(document: Document, context: Context) -> list[Run]:
    """Runs of the function's mutants, on the arguments that fit its types."""

    def execute() -> list[Run]:
        original = original_run(document, context)
        if original is None or len(set(original.results.values())) < 2:
            return []
        pairs = zip(original.arguments, original.outcomes.values(), strict=True)
        fitting = [values for values, outcome in pairs if outcome.kind == "ok"]
        function = original.function
        mutants = sample_mutants(
            function.code,
            count=_MUTANTS_PER_FUNCTION,
            choose=context.random(document, "mutants"),
            kinds=ALL_MISTAKES,
        )
        return [_run(function, mutant.code, fitting, context, mutant) for mutant in mutants]

    return context.remember(document, "mutants", execute)


def real_bugs(document: Document, context: Context) -> list[tuple[Run, list[str]]]:
    """The mutants whose runs differ from the function's, each with the calls that tell, by length.

    A mutant that behaves the same on every call may be no mistake at all.
    """
    original = original_run(document, context)
    found = []
    for run in mutant_runs(document, context):
        assert original is not None
        telling = [
            call
            for call, wrong in run.outcomes.items()
            if wrong.kind in ("ok", "raised") and wrong != original.outcomes[call]
        ]
        if telling:
            found.append((run, sorted(telling, key=len)))
    return found


def _run(
    function: PureFunction,
    code: str,
    arguments: Sequence[tuple],
    context: Context,
    mutant: Mutant | None = None,
) -> Run:
    outcomes = context.sandbox.run(
        code,
        name=function.name,
        arguments=[repr(values) for values in arguments],
        modules=function.modules,
    )
    used_up = next((outcome for outcome in outcomes if outcome.kind in _USED_UP), None)
    if used_up is not None:
        # So none of its calls counts: which of them still gave a value would be chance.
        outcomes = [used_up] * len(outcomes)
    calls = [f"{function.name}({', '.join(map(repr, values))})" for values in arguments]
    return Run(
        function=function,
        code=code,
        listing=function.listing.replace(function.code, code),
        arguments=tuple(arguments),
        outcomes=dict(zip(calls, outcomes, strict=True)),
        mutant=mutant,
    )


def assertion(call: str, value: str) -> str:
    """The assertion that a call gives a value."""
    return f"assert {call} {'is' if value in ('True', 'False', 'None') else '=='} {value}"


def wrong_call(original: Run, changed: Run, telling: Sequence[str]) -> str:
    """The first of the telling calls whose value is unequal, not only written otherwise.

    1 and True are told apart by their text, and equal to an assertion. "" where there is none.
    """
    for call in telling:
        right, wrong = original.outcomes[call], changed.outcomes[call]
        if wrong.kind != "ok" or ast.literal_eval(right.text) != ast.literal_eval(wrong.text):
            return call
    return ""


def passing(run: Run, assertions: Sequence[str], context: Context) -> list[bool]:
    """Which of the assertions hold for the run's code; each is run, under guard."""
    checker = f"check_{run.function.name}"
    lines = [run.code, "", f"def {checker}(number):"]
    for number, assertion in enumerate(assertions):
        lines += [f"    if number == {number}:", f"        {assertion}", "        return 1"]
    outcomes = context.sandbox.run(
        "\n".join(lines) + "\n",
        name=checker,
        arguments=[f"({number},)" for number in range(len(assertions))],
        modules=run.function.modules,
    )
    return [outcome == Outcome("ok", "1") for outcome in outcomes]
