import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.filters import FILTERS, FilterSettings, Limits, rejection

DEFAULTS = FilterSettings()
NUMBERS = "11 + 9 - 8 = 12; 4 ** 3 = 64; 5 // 2 = 2; 1 % 7"
LIMITS = Limits(min_target_characters=2, max_target_characters=50, max_input_characters=100)
LONG = "a sentence that is long enough to be a copy"


def reason(text, target, policy="not_whole", settings=DEFAULTS, **fields):
    draft = Draft({"input": text, **fields}, target=target)
    return rejection(draft, limits=LIMITS, target_in_input=policy, settings=settings)


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
        (
            "12 + 24 = 36; 40 - 31 = 9; 1.5 / 3 = 0.5; (7 + 8) * 9 = 135; 6*7 = 42; 9*9 = 81",
            NUMBERS,
            "few_letters",
        ),
        ("1 + 2 = 3", "14.05.2026", ""),
        ("What is shown in the figure?", "a cat", "missing_medium"),
        ("As Figure 3 shows, it grows.", "It grows.", "missing_medium"),
        ("请看下图并回答", "一只猫", "missing_medium"),
        ("go figure", "in the picture gallery", ""),
        ("Figure out the image processing steps.", "an answer", ""),
        ("Call +49 30 1234 5678 today.", "an answer", "personal_data"),
        ("a question", "token = 'a8Fk29xLq0Zt73Vb'", "secret"),
    ],
)
def test_reasons(text, target, expected):
    assert reason(text, target) == expected


def test_all_that_a_phrasing_may_show_is_looked_at():
    assert reason("", "an answer", name="+49 30 1234 5678") == "personal_data"
    assert reason("", "an answer", name="x\ud800", count=3) == "lone_surrogate"


def test_length_of_a_target_to_its_input():
    assert (
        reason("ab", "a b c d e f g " * 3, settings=FilterSettings(max_target_ratio=15.0))
        == "length_ratio"
    )
    assert reason("ab", "x y z w " * 6, settings=FilterSettings(max_target_ratio=25.0)) == ""
    assert reason("", "xyz", settings=FilterSettings(max_target_ratio=0.5)) == ""


def test_expected_scripts():
    text = "Обычный русский текст без особых примет, но довольно длинный, чтобы судить о нём."
    assert reason(text, "ответ, который тут стоит") == ""
    latin, cyrillic = (FilterSettings(scripts=(name,)) for name in ("LATIN", "CYRILLIC"))
    assert reason(text, "ответ", settings=latin) == "other_script"
    assert reason(text, "ответ", settings=cyrillic) == ""
    (told,) = FilterSettings(scripts=("Latin",)).problems()
    assert "'Latin'" in told


def test_filters_are_switched_off_by_name():
    off = FilterSettings(without=("copy", "repetition"))
    assert (
        reason("Mali", " mali", settings=off) == reason("a question", "=" * 30, settings=off) == ""
    )
    names = {each.name for each in FILTERS if not each.required}
    assert FilterSettings(without=tuple(names)).problems() == []
    assert "did you mean 'copy'" in FilterSettings(without=("copi",)).problems()[0]
    assert FilterSettings(without=("empty_target",)).problems()
    told = FilterSettings(max_rouge=1.5, label_ratio=0.5, decontaminate=("gone.jsonl",)).problems()
    assert len(told) == 3 and "between 0.5 and 1" in told[0] and "gone.jsonl" in told[2]


def test_policies_of_copying():
    assert reason(f"It is {LONG}.", LONG, policy="allowed") == ""
    assert reason("the word spam here", "spam", policy="never") == "target_in_input"
    assert reason("the word spammer here", "spam", policy="never") == ""


def test_the_generators_own_reason_comes_first():
    draft = Draft({"input": ""}, target="", rejected="execution_timeout")
    assert rejection(draft, limits=LIMITS, target_in_input="allowed") == "execution_timeout"


def test_zero_is_no_limit():
    draft = Draft(
        {"input": " ".join(f"word{n}" for n in range(9000))},
        target=" ".join(f"word{n}" for n in range(1, 9000)),
    )
    assert rejection(draft, limits=Limits(0, 0, 0), target_in_input="allowed") == ""


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=120), st.text(max_size=120))
def test_any_text_gets_a_verdict(text, target):
    verdict = reason(text, target)
    if verdict == "":
        assert 2 <= len(target) <= 50 and len(text) <= 100 and target.strip()
