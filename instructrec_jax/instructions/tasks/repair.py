"""Tasks of finding out what is wrong with code and putting it right.

Where the code can be run, a mistake counts only if a call shows it.
"""

from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.mutation import Mutant
from instructrec_jax.instructions.syntax_errors import BrokenCode, break_syntax
from instructrec_jax.instructions.tasks.execution import told
from instructrec_jax.instructions.tasks.runs import (
    assertion,
    original_run,
    real_bugs,
    wrong_call,
)

_LINES = (3, 25)
_LONGEST_CODE = 1_500

# What is wrong, by the kind of mistake; `removed` and `inserted` are the mutant's.
EXPLANATIONS = {
    "comparison operator": "the comparison must be `{removed}`, not `{inserted}`",
    "off by one": "the number must be {removed}, not {inserted}",
    "arithmetic operator": "the operator must be `{removed}`, not `{inserted}`",
    "wrong name": "`{inserted}` stands where `{removed}` is meant",
    "missing return": "the value is computed but not returned",
    "negated condition": "the condition is the wrong way round",
    "swapped arguments": "the arguments are in the wrong order",
    "wrong constant": "the constant must be {removed}, not {inserted}",
    "wrong connective": "the conditions must be joined by `{removed}`, not `{inserted}`",
    "missing jump": "`{removed}` is missing",
    "missing await": "the coroutine is not awaited",
}


def explanation(mutant: Mutant) -> str:
    """What is wrong with the mutant, as a part of a sentence."""
    return EXPLANATIONS[mutant.kind].format(removed=mutant.removed, inserted=mutant.inserted)


def repair_function(document: Document, context: Context) -> Iterator[Draft]:
    """A function with a mistake and an assertion that fails → the whole function put right."""
    original = original_run(document, context)
    for run, telling in real_bugs(document, context):
        assert original is not None
        call = wrong_call(original, run, telling)
        if not call:
            continue
        expected = original.outcomes[call].text
        text = f"{run.listing}\n\n{assertion(call, expected)}"
        fields = {"input": text, "name": run.function.name, "call": call, "expected": expected}
        yield Draft(fields, target=run.function.code)


def diagnose_error(document: Document, context: Context) -> Iterator[Draft]:
    """A function with a mistake, a call and what it wrongly gave → the mistake and its fix."""
    original = original_run(document, context)
    for run, telling in real_bugs(document, context):
        assert original is not None and run.mutant is not None
        call = telling[0]
        expected, observed = original.outcomes[call].text, told(run.outcomes[call])
        text = f"{run.listing}\n\n{call} gives {observed}; {expected} is expected."
        mutant = run.mutant
        target = (
            f"Line {run.line}: {explanation(mutant)}. `{mutant.after}` should be `{mutant.before}`."
        )
        yield Draft({"input": text, "name": run.function.name, "call": call}, target=target)


def _broken(document: Document, context: Context) -> BrokenCode | None:
    content = document.content
    shortest, longest = _LINES
    lines = content["code"].count("\n") + 1
    if content["kind"] != "function" or not content["body"] or len(content["code"]) > _LONGEST_CODE:
        return None
    if not shortest <= lines <= longest:
        return None
    return context.remember(
        document,
        "broken",
        lambda: break_syntax(content["code"], choose=context.random(document, "broken")),
    )


def repair_syntax(document: Document, context: Context) -> Iterator[Draft]:
    """A function that Python cannot read → the function as it was."""
    broken = _broken(document, context)
    if broken is not None:
        yield Draft({"input": broken.code}, target=document.content["code"])


def explain_syntax_error(document: Document, context: Context) -> Iterator[Draft]:
    """A function that Python cannot read and what Python says → the mistake and the right line."""
    broken = _broken(document, context)
    if broken is None:
        return
    said = f"line {broken.message_line}: {broken.message}"
    if broken.kind == "wrong indentation":
        fix = f"`{broken.after.strip()}` is indented too far."
    else:
        fix = f"`{broken.after.strip()}` should be `{broken.before.strip()}`."
    target = f"Line {broken.line}, {broken.kind}: {fix}"
    yield Draft({"input": f"{broken.code}\n\n{said}", "message": broken.message}, target=target)
