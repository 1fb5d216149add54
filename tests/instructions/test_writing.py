import gzip
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions import writing
from instructrec_jax.instructions.counting import count_examples, histogram, lengths
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.writing import json_line, write_examples, write_json


def example(number, split="train", target="x"):
    return InstructionExample(
        id=f"t-{number}", task="t", instruction="Say.", input="", target=target, split=split
    )


def test_shards_are_read_back_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_EXAMPLES_PER_SHARD", 2)
    examples = [example(n) for n in range(5)] + [example(9, split="test")]
    files = write_examples(tmp_path, examples)
    assert {name: entry["examples"] for name, entry in files.items()} == {
        "train-00000-of-00003.jsonl.gz": 2,
        "train-00001-of-00003.jsonl.gz": 2,
        "train-00002-of-00003.jsonl.gz": 1,
        "test-00000-of-00001.jsonl.gz": 1,
    }
    write_json(tmp_path / "dataset.json", {"format_version": 1})
    assert list(read_examples(tmp_path)) == examples
    assert list(read_examples(tmp_path, split="test")) == examples[-1:]


def test_the_same_examples_give_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_examples(tmp_path / "a", [example(1)])
    assert first == write_examples(tmp_path / "b", [example(1)])
    # No time and no name in the header of the gzip file.
    assert (tmp_path / "a" / "train-00000-of-00001.jsonl.gz").read_bytes()[3:8] == bytes(5)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_stays_on_one_line(text):
    line = json_line({"target": text})
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"target": text}


def test_people_can_read_it(tmp_path):
    write_examples(tmp_path, [example(1, target="五公里")])
    text = gzip.decompress((tmp_path / "train-00000-of-00001.jsonl.gz").read_bytes()).decode()
    assert "五公里" in text


def test_counts():
    rows = [example(1), example(2), example(3, split="test")]
    assert count_examples(rows) == {"t": {"train": {"": 2}, "test": {"": 1}}}
    assert lengths([1, 2, 3, 10]) == {"mean": 4.0, "median": 3, "p95": 3, "max": 10}
    assert histogram([0, 1, 2, 3, 4, 9]) == [(2, 2), (4, 2), (8, 1), (16, 1)]
