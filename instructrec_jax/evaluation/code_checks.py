"""Does an answer's code do what the example asks for? Found out by running it, under guard.

A check is one function and one entry in `CHECKS`: from an example to whether an output passes.
It reads what it needs out of the record, so that a dataset needs nothing beside it:

    repair_function   the listing's last assertion holds for the repaired function
    write_tests       every assertion holds for the function, and one fails for a changed version
                      that the target's assertions fail for too
    complete_test     the assertion with the value filled in holds for the function
    expose_bug        the call gives what the answer says, before and after the change
    predict_input     the call gives the value that is asked for
    write_body        the examples in the docstring come out as they say
"""

import ast
import doctest
from collections.abc import Callable, Mapping, Sequence

from instructrec_jax.evaluation.guarded_code import (
    assertions_of,
    code_of,
    holding,
    holding_for,
    outcomes,
    parsed,
)
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.execution import Sandbox
from instructrec_jax.instructions.hashing import generator
from instructrec_jax.instructions.mutation import ALL_MISTAKES, sample_mutants

# Whether an output passes.
Check = Callable[[Sandbox, str], bool]
# Changed versions of a function that written tests are tried on.
_MUTANTS = 8


def passes(
    examples: Sequence[InstructionExample],
    outputs: Sequence[str],
    sandbox: Sandbox,
    checks: Mapping[str, Check],
) -> list[bool | None]:
    """Whether each output passes; None where the example holds nothing to find out by.

    `checks` come from `checks_of`.
    """
    return [
        checks[example.id](sandbox, output) if example.id in checks else None
        for example, output in zip(examples, outputs, strict=True)
    ]


def checks_of(
    examples: Sequence[InstructionExample], sandbox: Sandbox, given: Mapping[str, Check]
) -> tuple[dict[str, Check], list[str]]:
    """{example id: check}, and the ids of the examples whose own target does not pass.

    What does not pass its own check (code that needs more than the guard gives) cannot judge
    others. The checks are those `given` by a benchmark, else those of the examples' tasks; an
    example without a target (a benchmark that has no solutions) is judged all the same.
    """
    found: dict[str, Check] = {}
    failing: list[str] = []
    for example in examples:
        make = CHECKS.get(example.task)
        check = given.get(example.id) or (make(example) if make is not None else None)
        if check is None:
            continue
        if not example.target or check(sandbox, example.target):
            found[example.id] = check
        else:
            failing.append(example.id)
    return found, failing


def _material(example: InstructionExample) -> str:
    return example.input or example.material


def _repair(example: InstructionExample) -> Check | None:
    listing, _, assertion = _material(example).rpartition("\n\n")
    names = functions_of(listing)
    if assertions_of(assertion) is None or not names:
        return None
    return lambda sandbox, output: all(
        holding_for(sandbox, code_of(output), [assertion], names=names)
    )


def _tests(example: InstructionExample) -> Check | None:
    function = _material(example)
    known = assertions_of(example.target)
    if parsed(function) is None or known is None:
        return None
    choose = generator("tests are tried on", example.id)
    mutants = sample_mutants(function, count=_MUTANTS, choose=choose, kinds=ALL_MISTAKES)
    telling: list[str] = []

    def check(sandbox: Sandbox, output: str) -> bool:
        if not telling:
            telling.extend(
                mutant.code for mutant in mutants if not all(holding(sandbox, mutant.code, known))
            )
        written = assertions_of(code_of(output))
        if written is None or not all(holding(sandbox, function, written)):
            return False
        return any(not all(holding(sandbox, changed, written)) for changed in telling)

    return check


def _blank(example: InstructionExample) -> Check | None:
    function, _, tests = _material(example).rpartition("\n\n")
    blanked = next((line for line in tests.splitlines() if line.endswith("____")), "")
    if not blanked:
        return None

    def check(sandbox: Sandbox, output: str) -> bool:
        value = code_of(output).strip()
        return _is_literal(value) and all(
            holding(sandbox, function, [blanked.removesuffix("____") + value])
        )

    return check


def _exposing(example: InstructionExample) -> Check | None:
    before, between, after = _material(example).partition("\n\nAfter:\n")
    if not between or not before.startswith("Before:\n"):
        return None
    versions = (before.removeprefix("Before:\n"), after)

    def check(sandbox: Sandbox, output: str) -> bool:
        call, _, told = output.strip().partition(" gives ")
        said = told.removesuffix(" after.").partition(" before and ")
        if not _is_call(call) or said[0] == said[2]:
            return False
        given = [outcomes(sandbox, version, [call])[0] for version in versions]
        if given[0] == given[1]:
            return False  # Two ways to write one value expose nothing.
        return all(
            _same(outcome.text, claim)
            if outcome.kind == "ok"
            else outcome.kind == "raised" and claim == f"an error ({outcome.text})"
            for outcome, claim in zip(given, (said[0], said[2]), strict=True)
        )

    return check


def _input(example: InstructionExample) -> Check | None:
    function, result, value = _material(example).rpartition("\n\nResult: ")
    names = functions_of(function)
    if not result or not _is_literal(value) or not names:
        return None

    def check(sandbox: Sandbox, output: str) -> bool:
        call = code_of(output).strip()
        # A call of something else, `int(6)`, gives any value.
        if not _is_call(call) or call.partition("(")[0].strip() not in names:
            return False
        (given,) = outcomes(sandbox, function, [call])
        return given.kind == "ok" and _same(given.text, value)

    return check


def _body(example: InstructionExample) -> Check | None:
    header = _material(example)
    tree = parsed(header)
    if tree is None or not isinstance(tree.body[-1], ast.FunctionDef):
        return None
    assertions = doctest_assertions(ast.get_docstring(tree.body[-1]) or "")
    if not assertions:
        return None
    names = functions_of(header)

    def check(sandbox: Sandbox, output: str) -> bool:
        body = f"{header}\n{code_of(output)}"
        return all(holding_for(sandbox, body, assertions, names=names))

    return check


def functions_of(source: str) -> list[str]:
    """Names of the functions that a source defines; [] where it is no Python."""
    tree = parsed(source)
    body = tree.body if tree is not None else []
    return list(dict.fromkeys(each.name for each in body if isinstance(each, ast.FunctionDef)))


def doctest_assertions(docstring: str) -> list[str]:
    """Assertions of a docstring's examples: expressions that show a literal, one after another."""
    try:
        session = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return []
    return [
        f"assert ({example.source.strip()}) == ({example.want.strip()})"
        for example in session
        if "\n" not in example.source.strip() and _is_literal(example.want.strip())
    ]


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _is_call(text: str) -> bool:
    """Whether this is one call of a function by its name with literal arguments."""
    tree = parsed(text)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return False
    call = tree.body[0].value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return False
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(_is_literal(ast.unparse(value)) for value in given)


def _same(text: str, claim: str) -> bool:
    """Whether both write one value of one type: 1 is neither True nor 1.0."""
    if not _is_literal(claim):
        return False
    return _typed(ast.literal_eval(text)) == _typed(ast.literal_eval(claim))


def _typed(value: object) -> object:
    """The literal with the type of all that it holds; equal where value and types are."""
    if isinstance(value, dict):
        return frozenset((_typed(key), _typed(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_typed, value))
    return type(value), frozenset(map(_typed, value)) if isinstance(value, set) else value


CHECKS: Mapping[str, Callable[[InstructionExample], Check | None]] = {
    "repair_function": _repair,
    "write_tests": _tests,
    "complete_test": _blank,
    "expose_bug": _exposing,
    "predict_input": _input,
    "write_body": _body,
}
