"""What each generator makes of a small document, by hand."""

import re

import pytest

from instructrec_jax.instructions.mutation import MISTAKES

DOCUMENTED = '''\
def clip(value, low=0, *rest, high: int = 9, **options):
    """Limit a value to an interval.

    The value comes back unchanged where it lies
    inside, otherwise the nearer bound does.

    >>> clip(12)
    9
    >>> for x in (1, 2):
    ...     print(x)
    1
    2
    >>> clip("a")
    Traceback (most recent call last):
    TypeError
    """
    if value < low:
        return low
    # clip calls itself nowhere
    return min(value, high)
'''
REST = """\
The value comes back unchanged where it lies
inside, otherwise the nearer bound does.

>>> clip(12)
9
>>> for x in (1, 2):
...     print(x)
1
2
>>> clip("a")
Traceback (most recent call last):
TypeError"""
BODY = """\
    if value < low:
        return low
    # clip calls itself nowhere
    return min(value, high)"""
HEADER = "def clip(value, low=0, *rest, high: int = 9, **options):"


@pytest.fixture
def clip(code_document):
    return code_document(DOCUMENTED, "clip")


def pairs(drafts):
    return [(draft.input, draft.target) for draft in drafts]


def test_summaries(drafts_of, clip):
    summary = "Limit a value to an interval."
    assert pairs(drafts_of("summarise_docstring", clip)) == [(REST, summary)]
    assert pairs(drafts_of("extract_summary", clip)) == [(f"{summary}\n\n{REST}", summary)]


@pytest.mark.parametrize(
    "docstring",
    [
        "Only a summary line here.",
        "A first line that goes\non in the next one.\n\n" + "text " * 30,
        "f(x) -> the thing that it gives\n\n" + "text " * 30,
        "Two words\n\n" + "text " * 30,
        "A fine summary line.\n\nShort.",
    ],
)
def test_docstrings_without_a_summary_to_tell(drafts_of, code_document, docstring):
    document = code_document(f'def f():\n    """{docstring}"""\n    return 1\n')
    assert drafts_of("summarise_docstring", document) == []


def test_writing_documentation_and_code(drafts_of, clip):
    # The docstring is long and holds a session: its first paragraph is asked for.
    code = f"{HEADER}\n{BODY}"
    assert pairs(drafts_of("document_function", clip)) == [(code, "Limit a value to an interval.")]
    ((source, body),) = pairs(drafts_of("write_body", clip))
    assert body == BODY
    assert source.startswith(f'{HEADER}\n    """Limit a value to an interval.\n\n    The value')
    assert source.endswith('    TypeError"""')


def test_classes(drafts_of, code_document):
    source = (
        'class Stack(list):\n    """A stack of things."""\n\n    def push(self, item):\n'
        "        self.append(item)\n\n    def peek(self):\n        return self[-1]\n"
    )
    outline = "class Stack(list):\n    def push(self, item):\n    def peek(self):"
    document = code_document(source, "Stack")
    assert pairs(drafts_of("document_class", document)) == [(outline, "A stack of things.")]
    assert drafts_of("document_function", document) == []


def test_names_and_parameters(drafts_of, clip):
    ((code, name),) = pairs(drafts_of("name_function", clip))
    assert name == "clip"
    assert code.startswith("def ____(value, low=0") and "# ____ calls itself" in code
    (draft,) = drafts_of("list_parameters", clip)
    assert (draft.input, draft.target) == (HEADER, "value, low, rest, high, options")
    assert draft.fields["count"] == 5


def test_methods_are_listed_without_self(drafts_of, code_document):
    document = code_document("class A:\n    def f(self, a, b=1):\n        return a\n")
    assert drafts_of("list_parameters", document)[0].target == "a, b"
    document = code_document("class A:\n    def f(self, a):\n        return a\n")
    assert drafts_of("list_parameters", document) == []


def test_mistakes_name_the_line_and_the_fix(drafts_of, clip):
    drafts = drafts_of("find_bug", clip)
    assert len(drafts) == 3
    original = f"{HEADER}\n{BODY}".split("\n")
    for draft in drafts:
        number, wrong, right = re.fullmatch(
            r"Line (\d+): `(.*)` should be `(.*)`\.", draft.target
        ).groups()
        mutated = draft.input.split("\n")
        assert mutated[int(number) - 1].strip() == wrong
        assert original[int(number) - 1].strip() == right
        assert sum(a != b for a, b in zip(mutated, original, strict=True)) == 1
    kinds = drafts_of("classify_bug", clip)
    assert (
        len(kinds) == 1 and set(kinds[0].options) == set(MISTAKES) and kinds[0].target in MISTAKES
    )
    changes = drafts_of("classify_change", clip)
    assert len(changes) == 2
    for change in changes:
        right, wrong = re.fullmatch(r"- (.*)\n\+ (.*)", change.input).groups()
        assert right in [line.strip() for line in original]
        assert wrong not in [line.strip() for line in original]
        assert change.target in MISTAKES
    assert changes[0].target == kinds[0].target


def test_functions_that_are_not_run_have_mistakes_of_rarer_kinds_too(drafts_of, code_document):
    code = "def f(self, a, b):\n    if a and b > 2:\n        self.g(a, b)\n    return True\n"
    document = code_document(code)
    assert len(drafts_of("find_bug", document)) == 3
    assert len(drafts_of("classify_change", document)) == 2


def test_doctests(drafts_of, clip):
    assert pairs(drafts_of("doctest_output", clip)) == [
        (">>> clip(12)", "9"),
        (">>> clip(12)\n9\n>>> for x in (1, 2):\n...     print(x)", "1\n2"),
    ]


def test_outputs_are_what_running_gives(drafts_of, code_document):
    document = code_document("def half(n):\n    if n % 2 == 0:\n        return n // 2\n", "half")
    drafts = [d for d in drafts_of("predict_output", document) if not d.rejected]
    assert drafts
    original = "def half(n):\n    if n % 2 == 0:\n        return n // 2"
    checked = 0
    for draft in drafts:
        code, call = draft.input.rsplit("\n\n", 1)
        assert draft.fields["call"] == call
        names = {}
        exec(code, names)
        assert repr(eval(call, names)) == draft.target
        checked += code == original
    assert 2 <= checked <= 10
    types = drafts_of("predict_type", document)
    assert {draft.target for draft in types} <= {"int", "float", "NoneType"}
    assert all(draft.target in draft.options for draft in types)


def test_calls_that_expose_a_bug(drafts_of, code_document):
    document = code_document("def half(n):\n    if n % 2 == 0:\n        return n // 2\n", "half")
    drafts = drafts_of("expose_bug", document)
    assert drafts
    for draft in drafts:
        after = draft.input.partition("After:\n")[2]
        before = draft.input.partition("\n\nAfter:")[0].removeprefix("Before:\n")
        assert draft.target == draft.references[0]
        for reference in draft.references:
            call, right, wrong = re.fullmatch(
                r"(.*) gives (.*) before and (.*) after\.", reference
            ).groups()
            assert result(before, call) == right
            assert result(after, call) == wrong
            assert right != wrong


def result(code, call):
    names = {}
    exec(code, names)
    try:
        return repr(eval(call, names))
    except Exception as error:
        return f"an error ({type(error).__name__})"


def test_calls_that_cannot_be_used_are_rejected_with_a_reason(drafts_of, code_document):
    for body, reason in (
        ("return n + [1] + {}", "execution_raised"),
        ("return 3", "execution_constant"),
        ("return map(str, [n])", "execution_not_literal"),
        ("while True:\n        n = 1", "execution_steps"),
    ):
        document = code_document(f"def f(n):\n    {body}\n")
        drafts = drafts_of("predict_output", document)
        assert drafts and {draft.rejected for draft in drafts} == {reason}


PASSAGE = (
    "The first sentence introduces something. A second sentence follows with details. "
    "Then comes another sentence about everything. Finally the last sentence closes it."
)


def prose(document_of, title, passage, *, opens):
    return document_of("prose", title=title, work="the manual", passage=passage, opens=opens)


def test_topics(drafts_of, document_of):
    both = f"{PASSAGE}\nAnother paragraph."
    opening = prose(document_of, "Calls", both, opens=True)
    later = prose(document_of, "Calls", PASSAGE, opens=False)
    assert pairs(drafts_of("open_topic", opening)) == [("Calls", PASSAGE)]
    assert drafts_of("open_topic", later) == []
    assert pairs(drafts_of("name_topic", later)) == [(PASSAGE, "Calls")]


def test_completion(drafts_of, document_of):
    document = prose(document_of, "Calls", PASSAGE, opens=True)
    ((beginning, rest),) = pairs(drafts_of("complete_passage", document))
    assert f"{beginning} {rest}" == PASSAGE
    assert rest.startswith("Then comes")


def test_a_long_beginning_loses_whole_sentences(drafts_of, document_of):
    first = [f"Sentence number {n} says {'a word and ' * 9}ends." for n in range(12)]
    document = prose(document_of, "x", " ".join(first), opens=True)
    ((beginning, _),) = pairs(drafts_of("complete_passage", document))
    assert beginning == " ".join(first[1:6]) and len(beginning) <= 700
    endless = prose(document_of, "x", f"A{'b' * 701}. Then.", opens=True)
    assert drafts_of("complete_passage", endless) == []


def test_blanks(drafts_of, document_of):
    document = document_of("package", name="x", summary="y", description=PASSAGE)
    (draft,) = drafts_of("fill_blanks", document)
    words = draft.target.split(", ")
    assert draft.fields["count"] == len(words) == draft.input.count("____")
    restored = draft.input
    for word in words:
        restored = restored.replace("____", word, 1)
    assert restored == PASSAGE


def test_order(drafts_of, document_of):
    document = prose(document_of, "Calls", PASSAGE, opens=True)
    (draft,) = drafts_of("order_sentences", document)
    lines = [line.partition(". ")[2] for line in draft.input.split("\n")]
    assert " ".join(lines[int(number) - 1] for number in draft.target.split()) == PASSAGE


def test_package_summary_is_not_in_the_description(drafts_of, document_of):
    document = document_of(
        "package",
        name="Gears",
        summary="Turns all the gears.",
        description=f"Gears turns all the gears. {PASSAGE}",
    )
    assert pairs(drafts_of("summarise_package", document)) == [(PASSAGE, "Turns all the gears.")]


TEXTS = {"en": "5 miles", "de": "5 Meilen", "zh": "5英里", "fr": "5 miles"}
NAMES = {"en": "English", "de": "German", "zh": "Chinese", "fr": "French"}


def test_translation_both_ways(drafts_of, document_of):
    document = document_of("locale", kind="measure", texts=TEXTS, names=NAMES, iso="")
    found = {
        (d.fields["source_language"], d.fields["target_language"], d.input, d.target)
        for d in drafts_of("translate_measures", document)
    }
    assert ("English", "German", "5 miles", "5 Meilen") in found
    assert ("Chinese", "English", "5英里", "5 miles") in found
    assert len(found) == 6
    assert drafts_of("translate_dates", document) == []


def test_languages_that_share_the_text_are_not_asked_for(drafts_of, document_of):
    kinds = {"kind": "measure", "names": NAMES, "iso": ""}
    targets = set()
    for number in range(40):
        texts = {code: text.replace("5", str(number)) for code, text in TEXTS.items()}
        document = document_of("locale", texts=texts, **kinds)
        for draft in drafts_of("identify_language", document):
            targets.add(draft.target)
            assert sorted(draft.options) == sorted(NAMES.values())
    assert targets == {"German", "Chinese"}


def test_dates_to_iso(drafts_of, document_of):
    texts = {"en": "May 4, 2031", "de": "4. Mai 2031"}
    content = {"kind": "date", "texts": texts, "names": NAMES}
    document = document_of("locale", iso="2031-05-04", **content)
    assert pairs(drafts_of("normalise_date", document)) == [
        ("May 4, 2031", "2031-05-04"),
        ("4. Mai 2031", "2031-05-04"),
    ]
    assert drafts_of("normalise_date", document_of("locale", iso="", **content)) == []
