import dataclasses

import numpy as np
import pytest

from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.preview import mixture_table, rows_text

TOKENIZER = byte_tokenizer(2)
EOS = TOKENIZER.eos_id
CONFIG = PlanConfig(encoder_length=80, decoder_length=40, batch_size=2, shuffle=False)


@pytest.fixture
def plan_of(make_cache):
    def make(*pairs, tasks=None, **changes):
        ids = [[TOKENIZER.encode(text) + [EOS] for text in pair] for pair in pairs]
        cache = make_cache(ids, tasks)
        return PackingPlan(cache, dataclasses.replace(CONFIG, **changes))

    return make


def test_a_row_is_shown_segment_by_segment(plan_of):
    plan = plan_of(("Add 1 and 2", "3"), ("Two\nlines", "[bold]no[/bold] </s>"), tasks=["a", "b"])
    assert rows_text(plan, TOKENIZER, count=1, colour=False).splitlines() == [
        "row 1 of step 1: 2 examples, encoder 22 of 80 tokens (72.5% padding), "
        "decoder 23 of 40 tokens (42.5% padding)",
        "   1  task a, id #0, 12 + 2 tokens",
        "      encoder  Add 1 and 2⟨eos⟩",
        "      decoder  3⟨eos⟩",
        "   2  task b, id #1, 10 + 21 tokens",
        "      encoder  Two",
        "               lines⟨eos⟩",
        "      decoder  [bold]no[/bold] </s>⟨eos⟩",
    ]


def test_special_tokens_are_named_and_told_from_text(plan_of, make_cache):
    sentinel = TOKENIZER.sentinel_ids[1]
    ids = [*TOKENIZER.encode("x"), sentinel, TOKENIZER.unk_id, 0, *TOKENIZER.encode("<unk>"), EOS]
    plan = PackingPlan(make_cache([(ids, [EOS])]), CONFIG)
    text = rows_text(plan, TOKENIZER, count=1, colour=False)
    assert "encoder  x⟨extra_id_1⟩⟨unk⟩⟨pad⟩<unk>⟨eos⟩" in text
    assert "decoder  ⟨eos⟩" in text


def test_colour_is_of_the_segment_and_only_on_a_terminal(plan_of, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plan = plan_of(("first", "1"), ("second", "2"))
    coloured = rows_text(plan, TOKENIZER, count=1, colour=True)
    assert "\x1b[36mfirst" in coloured and "\x1b[32msecond" in coloured
    assert "\x1b" not in rows_text(plan, TOKENIZER, count=1, colour=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in rows_text(plan, TOKENIZER, count=1, colour=True)


def test_what_a_terminal_would_act_upon_is_spelt_out(plan_of):
    hostile = "a\x1b[31mred\x07\u202eright\u2028line\r"
    plan = plan_of((hostile, "b"), tasks=["ta\x1b[2Jsk"])
    for short in (False, True):
        text = rows_text(plan, TOKENIZER, count=1, colour=False, short=short)
        shown = r"a\u{1b}[31mred\u{7}\u{202e}right\u{2028}line\u{d}"
        assert shown in text and r"ta\u{1b}[2Jsk" in text
        assert not set(text) & set("\x1b\x07\u202e\u2028\r")


def test_the_short_form_has_a_line_a_segment(plan_of):
    plan = plan_of(("One\ntwo", "3"), ("word " * 40, "4"), encoder_length=300)
    first, one, two = rows_text(plan, TOKENIZER, count=1, colour=False, short=True).splitlines()
    assert first.startswith("row 1 of step 1: 2 examples")
    assert one == "   1  [default] One two⟨eos⟩ → 3⟨eos⟩" or two.endswith("] One two⟨eos⟩ → 3⟨eos⟩")
    assert any(line.endswith("… → 4⟨eos⟩") and len(line) < 130 for line in (one, two))


def test_no_more_rows_than_a_step_has(plan_of):
    plan = plan_of(("a", "b"))
    shown = rows_text(plan, TOKENIZER, count=99, colour=False)
    assert shown.count("of step 1") == 2
    assert "row 2 of step 1: 1 example, encoder 2 of 80" in shown


def test_the_mixture_in_numbers(make_cache):
    # One example a row: an epoch has as many rows as examples.
    cache = make_cache([([5] * 80, [1])] * 8, ["much"] * 6 + ["little"] * 2)
    schedule = ((2, (("little", 3.0), ("much", 1.0))),)
    plan = PackingPlan(cache, dataclasses.replace(CONFIG, mixture_schedule=schedule))
    lines = [line.split() for line in mixture_table(plan, steps=12).splitlines()]
    assert " ".join(lines[0]) == "mixture, epochs 0 to 1: 8 examples each"
    assert lines[1] == ["task", "examples", "asked", "realised", "an", "epoch", "in", "the", "run"]
    assert lines[2] == ["much", "6", "75.00%", "75.00%", "6", "2.00", "x"]
    assert lines[3] == ["little", "2", "25.00%", "25.00%", "2", "2.00", "x"]
    assert " ".join(lines[4]) == "mixture, epoch 2 and all after it: 8 examples each"
    # 24 rows: two epochs of the first phase, one of the second.
    assert lines[6] == ["much", "6", "25.00%", "25.00%", "2", "2.33", "x"]
    assert lines[7] == ["little", "2", "75.00%", "75.00%", "6", "5.00", "x"]
    assert " ".join(lines[8]).startswith("12 steps of 2 rows are about 3.00 epochs")
    assert "not reached" not in mixture_table(plan, steps=9)
    assert mixture_table(plan, steps=8).count("not reached by this run") == 1


def test_previewing_changes_no_row(plan_of):
    plan, untouched = (plan_of(*[(str(n), "b") for n in range(9)], shuffle=True) for _ in "ab")
    rows_text(plan, TOKENIZER, count=1, colour=False)
    mixture_table(plan, steps=5)
    ours, theirs = plan.rows_for_steps(3, 9), untouched.rows_for_steps(3, 9)
    np.testing.assert_array_equal(ours.examples, theirs.examples)
