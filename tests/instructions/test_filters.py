import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.filters import Limits, rejection

LIMITS = Limits(min_target_characters=2, max_target_characters=50, max_input_characters=100)
LONG = "a sentence that is long enough to be a copy"


def reason(text, target, policy="not_whole", **fields):
    draft = Draft({"input": text, **fields}, target=target)
    return rejection(draft, limits=LIMITS, target_in_input=policy)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("a question", "an answer", ""),
        ("", "an answer", ""),
        ("a question", "", "empty_target"),
        ("a question", " \n", "empty_target"),
        ("a question", "x", "short_target"),
        ("a question", "xy" + "abc " * 20, "long_target"),
        ("ab " * 40, "an answer", "long_input"),
        ("a question", "x\ud800", "lone_surrogate"),
        ("x\udfff", "an answer", "lone_surrogate"),
        ("Mali", " mali", "target_in_input"),
        ("In Mali", "Mali", ""),
        (f"It is {LONG}.", LONG, "target_in_input"),
        ("a question", "=" * 30, "degenerate"),
        ("abcabc" * 12, "an answer", "degenerate"),
        ("a question", "no no no yes no no no no no no", "degenerate"),
        ("a question", "x" + " " * 40 + "y", ""),
    ],
)
def test_reasons(text, target, expected):
    assert reason(text, target) == expected


def test_policies_of_copying():
    assert reason(f"It is {LONG}.", LONG, policy="allowed") == ""
    assert reason("the word spam here", "spam", policy="never") == "target_in_input"
    assert reason("the word spammer here", "spam", policy="never") == ""


def test_the_generators_own_reason_comes_first():
    draft = Draft({"input": ""}, target="", rejected="execution_timeout")
    assert rejection(draft, limits=LIMITS, target_in_input="allowed") == "execution_timeout"


def test_zero_is_no_limit():
    draft = Draft(
        {"input": " ".join(map(str, range(9000)))}, target=" ".join(map(str, range(1, 9000)))
    )
    assert rejection(draft, limits=Limits(0, 0, 0), target_in_input="allowed") == ""


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=120), st.text(max_size=120))
def test_any_text_gets_a_verdict(text, target):
    verdict = reason(text, target)
    if verdict == "":
        assert 2 <= len(target) <= 50 and len(text) <= 100 and target.strip()
