import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.decoding.prompts import BrokenLine, Prompt, read_prompts


def read(*lines, **options):
    return list(read_prompts(lines, vocabulary_size=128, **options))


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        (b"Say hello.\n", Prompt("1", "Say hello.")),
        (b"Say hello.\r\n", Prompt("1", "Say hello.")),
        (b"no newline at the end", Prompt("1", "no newline at the end")),
        ("\ufeffBOM 你好 \u2028 more\n".encode(), Prompt("1", "BOM 你好 \u2028 more")),
        (b'[1, 2] reads as text"\n', Prompt("1", '[1, 2] reads as text"')),
        (b'{"instruction": "Do it."}', Prompt("1", "Do it.")),
        (b' {"instruction": "Do it.", "input": ""}', Prompt("1", "Do it.")),
        (b'{"instruction": "Do it.", "input": null}', Prompt("1", "Do it.")),
        (b'{"instruction": "Do it.", "input": "x", "id": "a"}', Prompt("a", "Do it.\n\nx")),
        (b'{"instruction": "Do it.", "input": "x", "id": 7}', Prompt(7, "Do it.\n\nx")),
        (b'{"instruction": "Do it.", "target": 3, "options": 4}', Prompt("1", "Do it.")),
        (b'{"instruction": "Why?", "context": "x", "response": "y"}', Prompt("1", "Why?\n\nx")),
        (b'{"prompt": "Go on", "completion": "."}', Prompt("1", "Go on")),
        (b'{"id": "a", "input_tokens": [5, 0, 127]}', Prompt("a", (5, 0, 127))),
        (b'{"instruction": "Do it.", "input_tokens": [5, 1]}', Prompt("1", (5, 1))),
        (b'{"instruction": "Do it.", "input_tokens": null}', Prompt("1", "Do it.")),
    ],
)
def test_good_line(line, prompt):
    assert read(line) == [prompt]


@pytest.mark.parametrize(
    ("line", "record_id", "reason"),
    [
        (b"", "1", "line is empty"),
        (b"  \t\n", "1", "line is empty"),
        (b'{"instruction": "cut', "1", "not JSON at column 17: Unterminated string"),
        (b"{}", "1", "no field 'instruction'"),
        (b'{"id": "a", "input": "x"}', "a", "no field 'instruction'"),
        (b'{"id": "a", "instruction": ""}', "a", "instruction is empty"),
        (b'{"id": "a", "instruction": null}', "a", "instruction is null, not a string"),
        (b'{"id": "a", "instruction": 3}', "a", "instruction is a number, not a string"),
        (b'{"id": "a", "instruction": ["x"]}', "a", "instruction is a list, not a string"),
        (b'{"id": "a", "instruction": "x", "input": 3}', "a", "input is a number, not a string"),
        (b'{"id": "a", "instruction": "x", "input": true}', "a", "input is a boolean"),
        (b'{"id": [1], "instruction": "x"}', "1", "id is a list, not a string or whole number"),
        (b'{"id": NaN, "instruction": "x"}', "1", "id is a number, not a string or whole number"),
        (b'{"id": true, "instruction": "x"}', "1", "id is a boolean"),
        (b'{"id": "\\ud83d", "instruction": "x"}', "1", "id holds half of a surrogate pair"),
        (b'{"instruction": "a \\ud83d b"}', "1", "half of a surrogate pair at character 3"),
        (b'{"instruction": "a", "input": "\\udc00"}', "1", "input holds half of a surrogate"),
        (b'{"input_tokens": "5 1"}', "1", "input_tokens is a string, not a list of token ids"),
        (b'{"input_tokens": []}', "1", "input_tokens is empty"),
        (b'{"input_tokens": [5, true]}', "1", "input_tokens holds a boolean, not only whole"),
        (b'{"input_tokens": [5, 1.0]}', "1", "input_tokens holds a number, not only whole"),
        (b'{"input_tokens": [5, -1]}', "1", "input_tokens holds -1, and the model's token ids are"),
        (b'{"input_tokens": [128]}', "1", "input_tokens holds 128, and the model's token ids are"),
        (b"caf\xe9\n", "1", "not UTF-8 at byte 4"),
        (b"{" * 20 + b'"a":' + b"[" * 200_000, "1", "JSON"),
        (b'{"a":' * 200_000, "1", "JSON nested too deeply"),
    ],
)
def test_broken_line(line, record_id, reason):
    (record,) = read(line)
    assert isinstance(record, BrokenLine)
    assert record.id == record_id
    assert record.error.startswith("line 1: ") and reason in record.error


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ('"target": "yes"', "yes"),
        ('"target": ""', ""),
        ('"output": "yes"', "yes"),
        ('"response": "yes"', "yes"),
        ('"completion": "yes"', "yes"),
        ('"target": "yes", "target_tokens": [7, 1]', (7, 1)),
    ],
)
def test_target(fields, target):
    line = f'{{"prompt": "Do it.", {fields}}}'.encode()
    assert read(line, with_targets=True) == [Prompt("1", "Do it.", target)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"plain", "plain text has no target; write a JSON object"),
        (b'{"instruction": "a"}', "no field 'target'"),
        (b'{"instruction": "a", "target": 3}', "target is a number, not a string"),
        (b'{"instruction": "a", "target": "\\udc00"}', "target holds half of a surrogate"),
        (b'{"instruction": "a", "target_tokens": []}', "target_tokens is empty"),
        (b'{"instruction": "a", "target_tokens": [999]}', "target_tokens holds 999, and"),
        (b'{"target": "b"}', "no field 'instruction'"),
    ],
)
def test_line_without_a_target_to_score(line, reason):
    (record,) = read(line, with_targets=True)
    assert record.error.startswith(f"line 1: {reason}")


def test_a_broken_line_does_not_end_the_reading_and_names_its_place():
    records = read(b"one\n", b"{\n", b"three\n")
    assert [record.id for record in records] == ["1", "2", "3"]
    assert records[1].error.startswith("line 2: ")
    assert records[2].text == "three"


def test_demonstrations_come_first_as_many_as_the_assembler_takes():
    line = (
        b'{"instruction": "Double it.", "context": "7", "demonstrations": '
        b'[{"instruction": "Double it.", "input": "1", "target": "2"}]}'
    )
    assert read(line) == [Prompt("1", "Double it.\n\n1\nAnswer: 2\n\nDouble it.\n\n7")]
    assembled = read(line, assemble=lambda shown, *question: (f"{len(shown)} {question}", 5))
    assert assembled == [Prompt("1", "1 ('Double it.', '7')", "", 5)]
    (broken,) = read(line.replace(b'"target": "2"', b'"answer": "2"'))
    assert broken.error == "line 1: demonstrations[0]: target is missing"


_json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.binary(max_size=30)
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("id", "instruction", "input", "prompt", "input_tokens"), _json_value
            ),
        ).map(lambda record: json.dumps(record).encode()),
        max_size=5,
    )
)
def test_every_line_gives_one_record_that_json_can_hold(lines):
    records = read(*lines)
    assert len(records) == len(lines)
    for record in records:
        assert json.dumps({"id": record.id}).encode()
        if isinstance(record, Prompt):
            assert not isinstance(record.text, str) or record.text.encode()
