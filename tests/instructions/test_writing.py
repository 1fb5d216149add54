import gzip
import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.counting import histogram, lengths
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.writing import (
    collect_shards,
    gzipped,
    json_line,
    read_split,
    shard_name,
    write_gzipped,
    write_json,
)


def example(number, split="train", target="x"):
    return InstructionExample(
        id=f"t-{number}", task="t", instruction="Say.", input="", target=target, split=split
    )


def lines(*examples):
    return [json_line(each.to_record()).encode() for each in examples]


def test_shards_are_read_back_in_order(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "dataset").mkdir()
    entries = {}
    for number in (0, 2):
        name = shard_name("train", number, 3)
        digest = write_gzipped(
            tmp_path / "made" / name, lines(example(number), example(number + 1))
        )
        entries[name,] = {"examples": 2, "sha256": digest}
    files = collect_shards(tmp_path / "made", tmp_path / "dataset", entries)
    # The shard that no example fell into is there, empty.
    assert {name: entry["examples"] for name, entry in files.items()} == {
        "train-00000-of-00003.jsonl.gz": 2,
        "train-00001-of-00003.jsonl.gz": 0,
        "train-00002-of-00003.jsonl.gz": 2,
    }
    rows = [example(number) for number in (0, 1, 2, 3)]
    assert list(read_split(tmp_path / "dataset", "train")) == rows
    assert list(read_split(tmp_path / "dataset", "test")) == []
    write_json(tmp_path / "dataset" / "dataset.json", {"format_version": 1})
    assert list(read_examples(tmp_path / "dataset")) == rows


def test_the_same_examples_give_the_same_bytes():
    # No time and no name in the header of the gzip file.
    assert gzipped(lines(example(1)))[3:8] == bytes(5)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_stays_on_one_line(text):
    line = json_line({"target": text})
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"target": text}


def test_people_can_read_it():
    assert "五公里" in gzip.decompress(gzipped(lines(example(1, target="五公里")))).decode()


def test_lengths():
    assert lengths(Counter([1, 2, 3, 10])) == {"mean": 4.0, "median": 3, "p95": 3, "max": 10}
    assert lengths(Counter()) == {}
    values = Counter([0, 1, 2, 3, 4, 9]).items()
    assert histogram(values) == [(2, 2), (4, 2), (8, 1), (16, 1)]
