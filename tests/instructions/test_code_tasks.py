"""What the tasks of repair, testing and recovery make of small functions, by hand."""

import ast
import re

import pytest

from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.mutation import ALL_MISTAKES
from instructrec_jax.instructions.tasks.code_table import CODE_TASKS
from instructrec_jax.instructions.tasks.repair import EXPLANATIONS
from instructrec_jax.instructions.templates import load_templates

SCALE = "def scale(n, factor=3):\n    if n < 0:\n        return 0\n    return n * factor\n"
MODULE = f"import math\n\n{SCALE.replace('n * factor', 'math.floor(n) * factor')}"


def value(code, call):
    names = {}
    exec(code, names)
    try:
        return eval(call, names)
    except Exception as error:
        return f"an error ({type(error).__name__})"


def holds(code, assertion):
    names = {}
    exec(code, names)
    try:
        exec(assertion, names)
    except Exception:
        return False
    return True


@pytest.fixture
def scale(code_document):
    return code_document(SCALE, "scale")


def test_repairs_are_the_function_and_the_assertion_fails_without_them(drafts_of, scale):
    drafts = drafts_of("repair_function", scale)
    assert len(drafts) >= 2
    for draft in drafts:
        code, _, test = draft.input.rpartition("\n\n")
        assert test.startswith(f"assert {draft.fields['call']} ")
        assert draft.target == SCALE.rstrip()
        assert holds(draft.target, test) and not holds(code, test)


def test_diagnoses_name_the_line_of_what_is_shown(drafts_of, code_document):
    drafts = drafts_of("diagnose_error", code_document(MODULE, "scale"))
    assert drafts
    for draft in drafts:
        code, _, report = draft.input.rpartition("\n\n")
        number, wrong, right = re.fullmatch(
            r"Line (\d+): .*\. `(.*)` should be `(.*)`\.", draft.target
        ).groups()
        lines = code.split("\n")
        assert lines[0] == "import math" and lines[int(number) - 1].strip() == wrong
        lines[int(number) - 1] = lines[int(number) - 1].replace(wrong, right)
        call, observed, expected = re.fullmatch(
            r"(.*) gives (.*); (.*) is expected\.", report
        ).groups()
        assert str(value(code, call)) == observed
        assert repr(value("\n".join(lines), call)) == expected != observed
        assert "\n".join(lines) == MODULE.rstrip()


def test_every_kind_of_mistake_has_an_explanation():
    assert set(EXPLANATIONS) == set(ALL_MISTAKES)


def test_mistakes_that_no_call_shows_are_left_out(drafts_of, code_document):
    # At 0 both branches give the same: a changed comparison may be no mistake.
    code = "def absolute(n):\n    return n if n > 0 else -n\n"
    document = code_document(code, "absolute")
    fixes = {draft.target for draft in drafts_of("find_bug", document)}
    assert fixes and not any("n if n >= 0" in fix for fix in fixes)


def test_broken_syntax(drafts_of, scale):
    (draft,) = drafts_of("repair_syntax", scale)
    with pytest.raises(SyntaxError):
        ast.parse(draft.input)
    assert draft.target == SCALE.rstrip()
    (explained,) = drafts_of("explain_syntax_error", scale)
    code, _, said = explained.input.rpartition("\n\n")
    assert code == draft.input and explained.fields["message"] in said
    number = int(re.match(r"Line (\d+), ", explained.target)[1])
    differing = [
        i
        for i, (a, b) in enumerate(
            zip(code.split("\n"), draft.target.split("\n"), strict=True), start=1
        )
        if a != b
    ]
    assert differing == [number]


def test_all_assertions_hold_and_one_tells_the_mutant(drafts_of, scale, sandbox):
    (draft,) = drafts_of("write_tests", scale)
    lines = draft.target.split("\n")
    assert 2 <= len(lines) == draft.fields["count"] <= 3
    assert all(holds(SCALE, line) for line in lines)
    broken = [d.input.rpartition("\n\n")[0] for d in drafts_of("repair_function", scale)]
    assert any(not holds(code, lines[-1]) for code in broken)
    (blank,) = drafts_of("complete_test", scale)
    assert blank.input.endswith("____") and not holds(SCALE, blank.input)
    assert blank.input[:-4].rpartition("assert")[2] + blank.target == lines[-1][6:]


def test_a_constant_that_only_looks_different_is_no_failing_test(drafts_of, code_document):
    # True and 1 are written differently and equal: no assertion tells them apart.
    code = "def flag(n):\n    return [True, n > 2][n > 5]\n"
    document = code_document(code, "flag")
    for draft in drafts_of("repair_function", document):
        mutant, _, test = draft.input.rpartition("\n\n")
        assert holds(code, test) and not holds(mutant, test)


def test_calls_that_give_a_value(drafts_of, scale):
    drafts = drafts_of("predict_input", scale)
    assert len(drafts) == 3
    for draft in drafts:
        wanted = draft.input.rpartition("\n\nResult: ")[2]
        assert draft.target == draft.references[0]
        assert all(repr(value(SCALE, call)) == wanted for call in draft.references)


def test_what_a_call_means(drafts_of, scale):
    drafts = {d.fields["call"].count(","): d for d in drafts_of("explain_call", scale)}
    one = re.fullmatch(r"scale\((.*)\)", drafts[0].fields["call"])[1]
    result = value(SCALE, drafts[0].fields["call"])
    assert drafts[0].target == (
        f"`n` is {one} and `factor` keeps its default 3. The call returns {result!r}."
    )
    assert re.match(r"`n` is .* and `factor` is .*\. The call returns ", drafts[1].target)


def test_functions_that_are_not_run_have_no_executed_targets(drafts_of, code_document):
    document = code_document("import os\n\ndef f(x):\n    os.remove(x)\n    return x + 1\n")
    for name, task in CODE_TASKS.items():
        if task.target_source == "executed":
            drafts = drafts_of(name, document)
            assert [draft.rejected for draft in drafts] == (
                ["not_run_name"] if name == "predict_output" else []
            )


SESSION = '''\
def f(x):
    """Double.

    >>> y = 2
    >>> f(y)
    4
    >>> f(0) == 0
    True
    >>> f(1) == 1
    False
    >>> f([])
    []
    >>> f(f)
    Traceback (most recent call last):
    TypeError: no
    """
    return x + x
'''


def test_sessions_become_tests(drafts_of, code_document):
    (draft,) = drafts_of("convert_doctest", code_document(SESSION))
    assert draft.target == (
        "def test_f():\n"
        "    y = 2\n"
        "    assert f(y) == 4\n"
        "    assert f(0) == 0\n"
        "    assert (f(1) == 1) is False\n"
        "    assert f([]) == []\n"
        "    with pytest.raises(TypeError):\n"
        "        f(f)"
    )
    assert draft.input.startswith(">>> y = 2\n>>> f(y)\n4\n>>> f(0) == 0\nTrue")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    4\n", "    4...\n"),
        ("    []\n", "    [ ]\n"),
        (">>> f([])", ">>> print([])"),
        (">>> f([])", ">>> f([])  # doctest: +SKIP"),
        ("return x + x", "print(x + x)"),
        (">>> y = 2", ">>> for y in [2]:\n    ...     pass"),
    ],
)
def test_sessions_that_say_too_little(drafts_of, code_document, old, new):
    assert drafts_of("convert_doctest", code_document(SESSION.replace(old, new))) == []


ANNOTATED = '''\
def f(self, items: list[int], *rest: str, key: str = "a", **options) -> dict[str, int]:
    """Count the items under the key; the rest and options are kept."""
    result: dict = {}
    for number, item in enumerate(items):
        result[key] = number + item
    # return the result of counting all
    return dict(result)
'''


def test_recovery_of_types(drafts_of, code_document):
    document = code_document(ANNOTATED)
    (draft,) = drafts_of("recover_types", document)
    header, _, body = draft.input.partition("\n")
    assert header == "def f(self, items, *rest, key='a', **options):"
    assert body == "\n".join(ANNOTATED.split("\n")[2:]).rstrip()
    assert draft.target == ANNOTATED.split("\n")[0]
    assert drafts_of("recover_types", code_document("def f(x):\n    return x\n")) == []


def test_recovery_of_names(drafts_of, code_document):
    (draft,) = drafts_of("name_variable", code_document(ANNOTATED))
    # The others are used too little; `item` stands in `items`.
    assert draft.target in ("key", "result")
    original = re.sub("____", draft.target, draft.input)
    assert ast.dump(ast.parse(original)) == ast.dump(
        ast.parse("\n".join(x for x in ANNOTATED.split("\n") if '"""' not in x))
    )
    assert not re.search(rf"\b{draft.target}\b", draft.input)


def test_signatures_from_docstrings(drafts_of, code_document):
    (draft,) = drafts_of("write_signature", code_document(ANNOTATED))
    assert draft.target == ANNOTATED.split("\n")[0]
    assert draft.input.startswith("Count the items")
    silent = ANNOTATED.replace("the rest and options", "the others")
    assert drafts_of("write_signature", code_document(silent)) == []


def test_completion_of_code(drafts_of, code_document):
    (draft,) = drafts_of("complete_code", code_document(ANNOTATED))
    code = "\n".join(x for x in ANNOTATED.split("\n") if '"""' not in x)
    assert code.startswith(f"{draft.input}\n{draft.target}\n")
    assert len(draft.target.strip()) >= 10


def test_code_from_a_comment(drafts_of, code_document):
    (draft,) = drafts_of("code_from_comment", code_document(ANNOTATED))
    assert draft.input.endswith("    # return the result of counting all")
    assert (draft.fields["comment"], draft.target) == (
        "return the result of counting all",
        "return dict(result)",
    )
    for old, new in (
        ("# return the result", "# XXX return the result"),
        ("# return the result of counting all", "# the result of counting all of them"),
        ("# return the result of counting all", "# return what was asked for"),
        ("    return dict", "    item = 3\n    return dict"),
        ("    # return", "    # first of all\n    # return"),
    ):
        assert drafts_of("code_from_comment", code_document(ANNOTATED.replace(old, new))) == []


@pytest.mark.parametrize("task", CODE_TASKS)
def test_banks_of_phrasings(task):
    templates = [t for t in load_templates(task) if t.style != "chinese"]
    assert len(templates) >= 10
    assert {"imperative", "question", "terse", "polite", "search"} <= {t.style for t in templates}


def test_drafts_do_not_depend_on_the_order_of_tasks(scale, sandbox):
    def drafts(names):
        context = Context(seed=0, sandbox=sandbox)
        return {name: list(CODE_TASKS[name].generate(scale, context)) for name in names}

    names = [name for name, task in CODE_TASKS.items() if task.target_source == "executed"]
    assert drafts(names) == drafts(names[::-1])
