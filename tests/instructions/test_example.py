import json

from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import InstructionExample, Provenance, encoder_text
from instructrec_jax.instructions.reading import split_of


def test_encoder_text_sets_the_input_apart_by_a_blank_line():
    assert encoder_text("Say it.", "hello") == "Say it.\n\nhello"
    assert encoder_text("Say it.", "") == "Say it."
    assert encoder_text("", "hello") == "hello"


def test_record_has_a_fixed_key_order_and_no_empty_optional_fields():
    provenance = Provenance("c", "u", (1, 2), "0f", "PSF-2.0", "g", 3)
    example = InstructionExample(
        id="a",
        task="t",
        instruction="i",
        input="",
        target="x",
        split="train",
        provenance=provenance,
    )
    assert json.dumps(example.to_record()) == (
        '{"id": "a", "task": "t", "instruction": "i", "input": "", "target": "x", '
        '"split": "train", "provenance": {"corpus": "c", "uri": "u", "span": [1, 2], '
        '"sha256": "0f", "licence": "PSF-2.0", "generator": "g", "seed": 3}}'
    )


def test_hashes_are_fixed_for_all_time_and_keep_parts_apart():
    # Independent of PYTHONHASHSEED, platform and version: a change would re-split every dataset.
    assert hashing.digest("a", "b") == "42de60bac299d468"
    assert hashing.digest("ab", "c") != hashing.digest("a", "bc")
    assert 0 <= hashing.fraction("x") < 1


def asked(input, *, id="a", target="x"):
    return InstructionExample(id=id, task="t", instruction="Say it.", input=input, target=target)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab C", max_size=9), st.integers(0, 5))
def test_equal_questions_go_to_one_split(text, seed):
    one = split_of(asked(text), validation_fraction=0.5, seed=seed)
    other = asked(f" {text.upper()}", id="b", target="y")
    assert split_of(other, validation_fraction=0.5, seed=seed) == one


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 5))
def test_split_share_follows_the_fraction(share, seed):
    splits = [split_of(asked(str(i)), validation_fraction=share, seed=seed) for i in range(2000)]
    # Four standard deviations of a binomial with p = 1/2.
    assert abs(splits.count("validation") / 2000 - share) < 0.045
    assert set(splits) <= {"train", "validation"}
