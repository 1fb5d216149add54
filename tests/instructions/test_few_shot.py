import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.errors import DataError
from instructrec_jax.instructions.example import Demonstration, InstructionExample
from instructrec_jax.instructions.few_shot import (
    few_shot_text,
    fitted_text,
    fitting,
    read_demonstrations,
    token_length,
)
from instructrec_jax.instructions.reading import read_examples

DOUBLE = Demonstration("Double it.", "4", "8")


def test_text():
    assert few_shot_text((), "Double it.", "7") == "Double it.\n\n7"
    solved = (DOUBLE, Demonstration("Twice 1?", "", "two\nlines"))
    assert few_shot_text(solved, "Double it.", "7") == (
        "Double it.\n\n4\nAnswer: 8\n\nTwice 1?\nAnswer:\ntwo\nlines\n\nDouble it.\n\n7"
    )


def test_one_that_does_not_fit_makes_room_for_the_next():
    length = token_length(byte_tokenizer(0).encode_batch)
    long, short = Demonstration("x" * 500, "", "y"), Demonstration("1?", "", "1")
    limit = len(few_shot_text([short, DOUBLE], "2?", "")) + 1
    kept = fitting([long, short, DOUBLE], "2?", "", length=length, limit=limit)
    assert kept == (short, DOUBLE)
    text = fitted_text([long, short, DOUBLE], "2?", "", length=length, limit=limit - 1)
    assert text == (few_shot_text([short], "2?", ""), 2)
    assert fitting([short], "2?" * 90, "", length=length, limit=limit) == ()


words = st.text("ab \n你é", max_size=12)
solved = st.lists(st.builds(Demonstration, words, words, words), max_size=4)


@given(solved, words, words, st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_within_the_limit_and_as_many_as_fit(demonstrations, instruction, input, limit):
    for count in (byte_tokenizer(0).encode_batch, lambda texts: [text.split() for text in texts]):
        length = token_length(count)
        options = {"length": length, "limit": limit}
        text, left_out = fitted_text(demonstrations, instruction, input, **options)
        kept = fitting(demonstrations, instruction, input, **options)
        assert text == few_shot_text(kept, instruction, input)
        assert len(kept) + left_out == len(demonstrations)
        assert length(text) <= limit or not kept
        rest = iter(demonstrations)
        assert all(any(each == other for other in rest) for each in kept)


def test_records_come_back(tmp_path):
    example = InstructionExample(
        "a", "t", "Double it.", "7", "14",
        demonstrations=(DOUBLE, Demonstration("Twice 1?", "", "2", material="1")),
    )  # fmt: skip
    file = tmp_path / "few.jsonl"
    file.write_text(json.dumps(example.to_record()))
    assert list(read_examples(file)) == [example]
    file.write_text('{"instruction": "a", "output": "b", "demonstrations": null, "id": "x"}')
    assert next(read_examples(file)).demonstrations == ()
    file.write_text('{"instruction": "a", "output": "b", "demonstrations": [{"input": "x"}]}')
    with pytest.raises(
        DataError, match=r"few.jsonl:1: demonstrations\[0\]: instruction is missing"
    ):
        list(read_examples(file))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x", "demonstrations is not a list of objects"),
        ([{"instruction": "a", "target": "b"}, 3], r"demonstrations\[1\] is not an object"),
        ([{"instruction": "a"}], r"demonstrations\[0\]: target is missing"),
        ([{"instruction": "a", "target": 3}], "target is no text"),
        ([{"instruction": "a", "target": " "}], "target is empty"),
        ([{"instruction": "", "target": "b"}], "instruction is empty and there is no input"),
        ([{"instruction": "a", "input": ["x"], "target": "b"}], "input is no text"),
        ([{"instruction": "a\ud83d", "target": "b"}], "half of a surrogate pair at character 2"),
    ],
)
def test_bad_fields(value, reason):
    with pytest.raises(ValueError, match=reason):
        read_demonstrations(value)
