"""Tunes in ABC notation: lengths of bars by hand, and what the tasks make of a tune."""

import re
from fractions import Fraction

import pytest
from text_documents import TUNE, document

from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.tasks.music import (
    bar_length,
    metre_of,
    sound_bars,
    unit_of,
)

EIGHTH = Fraction(1, 8)
LETTERS, SEMITONES = "CDEFGAB", (0, 2, 4, 5, 7, 9, 11)
# Steps of the scales in semitones, from their first notes.
SCALES = {
    "": "2212221", "m": "2122122", "dor": "2122212", "phr": "1222122",
    "lyd": "2221221", "mix": "2212212", "loc": "1221222",
}  # fmt: skip


def accidentals(tonic, mode):
    """By the scale's steps: {letter: semitones} of letters that are sharp or flat."""
    place = LETTERS.index(tonic[0])
    sound = SEMITONES[place] + {"": 0, "#": 1, "b": -1}[tonic[1:]]
    found = {}
    for number, step in enumerate(SCALES[mode]):
        letter = LETTERS[(place + number) % 7]
        change = (sound - SEMITONES[LETTERS.index(letter)] + 6) % 12 - 6
        if change:
            found[letter] = change
        sound += int(step)
    return found


def tune(**changes):
    return document("tune", **(TUNE | changes))


@pytest.mark.parametrize(
    ("bar", "eighths"),
    [
        ("ABcd", 4),
        ("A2 B3/2 c/ d//", "17/4"),
        ("A>B c<d", 4),
        ("A>>B", 2),
        ("(3ABc d2", 4),
        ("(3:2:3ABc (2de", 5),
        ("[CEG]2 z2 x", 5),
        ("[C2E2G2]", 2),
        ('"Am"A2 !trill!B {cd}e', 4),
        ("^A,2 _b'2 =c", 5),
        ("~A2.B-B (cd)", 6),
        ("", 0),
        # A quintuplet hangs on the metre; unequal lengths in a chord; a word; a hanging rhythm.
        ("(5ABcde", None),
        ("[C2E]", None),
        ("A2 h7 &", None),
        ("A2 B>", None),
    ],
)
def test_lengths_of_bars(bar, eighths):
    expected = None if eighths is None else Fraction(eighths) * EIGHTH
    assert bar_length(bar, EIGHTH) == expected


def test_metres_and_units():
    assert metre_of("6/8") == Fraction(3, 4) and metre_of("C|") == 1
    assert metre_of("none") is None and metre_of("2+3/8") is None and metre_of("4/0") is None
    assert unit_of("1/4", Fraction(1)) == Fraction(1, 4)
    assert unit_of("", Fraction(3, 4)) == EIGHTH and unit_of("", Fraction(1, 2)) == EIGHTH / 2


@pytest.mark.parametrize(
    ("changes", "bars"),
    [
        ({}, 11),
        # A bar too long, one too short in the middle, another metre, a part's name.
        ({"body": TUNE["body"].replace("B2dB A4", "B2dB A5")}, 0),
        ({"body": TUNE["body"].replace("B2dB A4", "B2dB A3")}, 0),
        ({"metre": "3/4"}, 0),
        ({"metre": ""}, 0),
        ({"body": "P:A\n" + TUNE["body"]}, 0),
        ({"body": TUNE["body"].replace("|B2dB", "|[K:G]B2dB")}, 0),
        ({"body": "% a remark\n" + TUNE["body"] + " % the end"}, 11),
    ],
)
def test_bars_are_as_long_as_the_metre(changes, bars):
    found = sound_bars(tune(**changes), Context(seed=0, sandbox=None))
    assert len(found) == bars


def test_a_tune_gives_every_task(drafts_of):
    headers = "R:reel\nM:4/4\nL:1/8\nK:D"
    bars = TUNE["body"]
    pairs = {
        task: [(draft.input, draft.target) for draft in drafts_of(task, tune())]
        for task in ("name_metre", "continue_tune", "write_tune", "title_tune")
    }
    begun, ending = bars[: bars.index("a2fa b2ag")], bars[bars.index("a2fa b2ag") :]
    assert pairs == {
        "name_metre": [(f"L:1/8\n{bars}", "4/4")],
        "continue_tune": [(f"{headers}\n{begun}", ending)],
        "write_tune": [(f"T:The Short Way Home\n{headers}", bars)],
        "title_tune": [(f"{headers}\n{bars}", "The Short Way Home")],
    }


@pytest.mark.parametrize(
    ("key", "named", "first_bar"),
    [
        ("D", "D", "d2^fd A2^FA|"),
        ("Bm", "Bm", "d2^fd A2^FA|"),
        ("Dmaj", "D", "d2^fd A2^FA|"),
        ("G mixolydian", "Gmix", "d2fd A2FA|"),
        ("F", "F", "d2fd A2FA|"),
        ("Eb", "Eb", "d2fd _A2F_A|"),
        ("A dor", "Ador", "d2^fd A2^FA|"),
    ],
)
def test_keys_are_heard_from_written_accidentals(drafts_of, key, named, first_bar):
    (draft,) = drafts_of("name_key", tune(key=key))
    assert draft.target == named and first_bar in draft.input and "K:" not in draft.input


def test_keys_that_cannot_be_told(drafts_of):
    accidental = tune(body=TUNE["body"].replace("d2fd", "d2=fd"))
    for unclear in (accidental, tune(key="HP"), tune(key="none"), tune(key="am"), tune(key="AB")):
        assert drafts_of("name_key", unclear) == []


def test_metres_that_sound_the_same_are_not_asked_for(drafts_of):
    assert drafts_of("name_metre", tune(metre="2/2")) == []
    assert drafts_of("name_metre", tune(metre="C"))[0].target == "4/4"
    assert drafts_of("continue_tune", tune(body=TUNE["body"].partition("\n")[0])) == []


@pytest.mark.parametrize("mode", SCALES)
def test_every_key_is_spelt_as_its_scale(drafts_of, mode):
    spelt = 0
    for tonic in [letter + change for letter in LETTERS for change in ("", "#", "b")]:
        drafts = drafts_of("name_key", tune(key=f"{tonic}{mode}"))
        wanted = accidentals(tonic, mode)
        # A letter that is sharp or flat twice has no place in a signature.
        assert bool(drafts) == (set(wanted.values()) <= {-1, 1})
        for draft in drafts:
            spelt += 1
            assert draft.target == f"{tonic}{mode}"
            notes = set(re.findall(r"[_^]?[A-G]", draft.input.split("\n", 1)[-1].upper()))
            signs = {1: "^", -1: "_"}
            assert notes <= {signs.get(wanted.get(letter), "") + letter for letter in LETTERS}
    assert spelt == 15
