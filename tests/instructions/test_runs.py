import pytest

from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.execution import Outcome
from instructrec_jax.instructions.sources import python_code
from instructrec_jax.instructions.tasks.runs import original_run

CODE = "def add(a: int, b: int = 2) -> int:\n    return a + b\n"


class Box:
    """Runs nothing: the third call ends as it is told, all others give a value."""

    def __init__(self, kind: str) -> None:
        self._third = Outcome(kind, "")

    def run(self, code, *, name, arguments, modules):
        outcomes = [Outcome("ok", str(number)) for number in range(len(arguments))]
        return [*outcomes[:2], self._third, *outcomes[3:]]


@pytest.mark.parametrize("kind", ["memory", "timeout", "crashed", "unstable", "steps"])
def test_a_function_that_used_up_what_its_calls_share_has_no_results(kind):
    (document,) = python_code.definitions(CODE, uri="m.py", licence="MIT")
    run = original_run(document, Context(seed=0, sandbox=Box(kind)))
    assert run is not None
    kinds = {outcome.kind for outcome in run.outcomes.values()}
    assert kinds == ({"ok", kind} if kind in ("unstable", "steps") else {kind})
