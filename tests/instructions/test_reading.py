import gzip
import json

import pytest

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.example import InstructionExample, Provenance
from instructrec_jax.instructions.reading import has_splits, read_dataset_info, read_examples

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def the_only(path):
    (example,) = read_examples(path)
    return example


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ALPACA, ("Add.", "1 2", "3")),
        ({"instruction": "Add.", "output": "3"}, ("Add.", "", "3")),
        (
            {"instruction": "Who?", "context": "", "response": "He", "category": "qa"},
            ("Who?", "", "He"),
        ),
        ({"prompt": "Once", "completion": " upon"}, ("Once", "", " upon")),
        ({"instruction": "Say", "input": "", "target": "x"}, ("Say", "", "x")),
    ],
)
def test_formats_are_recognised_by_field_names(tmp_path, record, expected):
    example = the_only(write_lines(tmp_path / "a.jsonl", record))
    assert (example.instruction, example.input, example.target) == expected
    assert (example.id, example.task, example.split) == ("a.jsonl:1", "default", "")


def test_natural_instructions_task_file(tmp_path):
    task = {
        "Definition": ["Tell the colour."],
        "Positive Examples": [],
        "Instances": [
            {"id": "n-1", "input": "sky", "output": ["blue", "azure"]},
            {"input": "grass", "output": ["green"]},
        ],
    }
    path = tmp_path / "task001_colour.json"
    path.write_text(json.dumps(task, indent=2))
    first, second = read_examples(path)
    assert (first.id, first.task, first.target) == ("n-1", "task001_colour", "blue")
    assert first.references == ("blue", "azure")
    assert first.instruction == "Tell the colour."
    assert second.references == ()
    assert second.id != first.id


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read_record_by_record(tmp_path, indent):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([ALPACA, ALPACA | {"output": "4"}], indent=indent))
    assert [example.target for example in read_examples(path)] == ["3", "4"]


def test_own_records_round_trip(tmp_path):
    example = InstructionExample(
        id="a",
        task="t",
        instruction="i",
        input="in",
        target="x",
        references=("x", "y"),
        options=("x", "z"),
        template="t.1",
        split="test",
        holdout="task",
        target_source="intrinsic",
        provenance=Provenance("c", "u", (1, 2), "0f", "MIT", "g", 3),
        material="m",
    )
    assert the_only(write_lines(tmp_path / "a.jsonl", example.to_record())) == example


def test_byte_order_mark_crlf_blank_lines_and_line_separator(tmp_path):
    path = tmp_path / "a.jsonl"
    record = json.dumps(ALPACA | {"output": "a\u2028b\x00"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + (record + "\r\n\r\n" + record).encode())
    first, second = read_examples(path)
    assert first.target == "a\u2028b\x00"
    assert second.id == "a.jsonl:3"


def test_pretty_list_with_byte_order_mark_and_crlf(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps([ALPACA], indent=1).replace("\n", "\r\n").encode()
    )
    assert the_only(path).target == "3"


def test_gzip_is_seen_by_content(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(json.dumps(ALPACA).encode()))
    assert the_only(path).target == "3"


def test_glob_reads_files_in_order_with_ids_that_differ(tmp_path):
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        write_lines(tmp_path / folder / "x.jsonl", ALPACA | {"output": folder})
    examples = list(read_examples(tmp_path / "*" / "x.jsonl"))
    assert [example.target for example in examples] == ["a", "b"]
    assert examples[0].id != examples[1].id


def test_splits(tmp_path):
    rows = [ALPACA | {"target": name, "split": name} for name in ("train", "test")]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    assert has_splits(path)
    assert [example.target for example in read_examples(path, split="test")] == ["test"]
    without = write_lines(tmp_path / "b.jsonl", ALPACA)
    assert not has_splits(without)
    assert len(list(read_examples(without, split="test"))) == 1
    with pytest.raises(DataError, match="no examples of the split 'validation'"):
        list(read_examples(path, split="validation"))


def test_dataset_folder(tmp_path):
    (tmp_path / "dataset.json").write_text('{"format_version": 1}')
    row = ALPACA | {"split": "train"}
    shard = tmp_path / "train-00000-of-00001.jsonl.gz"
    shard.write_bytes(gzip.compress(json.dumps(row).encode()))
    (tmp_path / "rejected.jsonl.gz").write_bytes(gzip.compress(b"not read"))
    assert read_dataset_info(tmp_path) == {"format_version": 1}
    assert has_splits(tmp_path)
    assert len(list(read_examples(tmp_path))) == 1
    assert len(list(read_examples(tmp_path, split="train"))) == 1


def folder_of_two_shards(folder):
    files = {}
    for number, rows in enumerate((2, 1)):
        name = f"train-{number:05d}-of-00002.jsonl.gz"
        row = json.dumps(ALPACA | {"split": "train"}) + "\n"
        (folder / name).write_bytes(gzip.compress(row.encode() * rows))
        files[name] = {"examples": rows, "sha256": ""}
    files["rejected.jsonl.gz"] = {"examples": 9, "sha256": ""}
    (folder / "dataset.json").write_text(json.dumps({"files": files}))
    return folder


def test_shards_are_those_that_the_folder_lists(tmp_path):
    folder = folder_of_two_shards(tmp_path)
    (folder / "train-00000-of-00001.jsonl.gz").write_bytes(gzip.compress(b"a leftover"))
    assert len(list(read_examples(folder, split="train"))) == 3
    (folder / "train-00001-of-00002.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.jsonl\.gz: missing"):
        list(read_examples(folder))


def test_a_short_shard_is_an_error(tmp_path):
    folder = folder_of_two_shards(tmp_path)
    shard = folder / "train-00000-of-00002.jsonl.gz"
    row = json.dumps(ALPACA | {"split": "train"})
    shard.write_bytes(gzip.compress(row.encode()))
    with pytest.raises(DataError, match=r"train-00000-of-00002.*: holds 1 examples, .* says 2"):
        list(read_examples(folder))
    shard.write_bytes(gzip.compress(row.replace('"train"', '"test"').encode()))
    with pytest.raises(DataError, match="an example of the split 'test'"):
        list(read_examples(folder))
    (folder / "dataset.json").write_text('{"files": ["train-00000-of-00002.jsonl.gz"]}')
    with pytest.raises(DataError, match="`files` is not as the format says"):
        list(read_examples(folder))


def test_unfinished_dataset_folder(tmp_path):
    with pytest.raises(DataError, match="no finished dataset"):
        list(read_examples(tmp_path))


GOOD = json.dumps(ALPACA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "\n" + GOOD[:20], r"a\.jsonl:2: not JSON"),
        (GOOD + "\n[1]", r"a\.jsonl:2: expected a JSON object, found a list"),
        (GOOD + '\n"text"', r"a\.jsonl:2: expected a JSON object, found text"),
        (GOOD + "\nnull", r"a\.jsonl:2: expected a JSON object, found null"),
        ('{"instruction": "a", "output": NaN}', r"a\.jsonl:1: not JSON: NaN"),
        ('{"instruction": "a", "output": -Infinity}', r"a\.jsonl:1: not JSON: -Infinity"),
        ('{"instruction": "a", "output": 3}', r"a\.jsonl:1: `output` must be text, not a number"),
        ('{"instruction": "a", "output": null}', "must be text, not null"),
        ('{"instruction": "a", "output": true}', "must be text, not true or false"),
        ('{"instruction": ["a"], "output": "b"}', "`instruction` must be text, not a list"),
        ('{"instruction": "a", "input": null, "output": "b"}', "`input` must be text, not null"),
        ('{"instruction": "a"}', r"a\.jsonl:1: no known fields: found 'instruction'; expected"),
        ('{"question": "a", "answer": "b"}', "found 'question', 'answer'"),
        ("{}", "found none"),
        ('{"instruction": "a", "output": ""}', r"a\.jsonl:1: `output` is empty"),
        ('{"instruction": "a", "output": " \\n"}', "`output` is empty"),
        ('{"instruction": "", "output": "b"}', "`instruction` is empty"),
        ('{"instruction": "a", "output": "x\\ud800"}', r"a\.jsonl:1: `output` holds a lone surr"),
        ('{"instruction": "a", "target": "b", "references": "b"}', "must be a list of texts"),
        ('{"instruction": "a", "target": "b", "references": [1]}', "must be text, not a number"),
        ('{"instruction": "a", "target": "b", "split": "dev"}', "`split` is 'dev'"),
        ('{"instruction": "a", "target": "b", "id": 7}', "`id` must be text"),
        ('{"instruction": "a", "target": "b", "provenance": 1}', "`provenance`"),
        ('{"instruction": "a", "target": "b", "provenance": {"span": 1}}', "`provenance`"),
        ("[" * 100_000, "not JSON"),
        ("", "no examples"),
        ("\n\n", "no examples"),
        ('{"Definition": 3, "Instances": []}', "`Definition` must be text"),
        ('{"Definition": "d", "Instances": [{"input": "x"}]}', r"1 \(instance 1\): expected"),
        ('{"Definition": "d", "Instances": [{"input": "x", "output": []}]}', "`target` is empty"),
    ],
)
def test_bad_content_names_the_file_and_line(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_examples(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"instruction": "a", "output": "b"},\n {"instruction": "a"', r"a\.json:2: not JSON"),
        (b'[{"instruction": "a", "output": "b"}\n', r"a\.json:1: not JSON: the list is cut off"),
        (b'[{"instruction": "a", "output": "b"},\n\n 3]', r"a\.json:3: expected a JSON object"),
        (b"[]", "no examples"),
        (b'[{"instruction": "a", "output": "b"},\n]', r"a\.json:2: not JSON: a comma before"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not JSON"),
        (b"[]\n[]", r"a\.json:2: not JSON: text after the end of the list"),
        (b'{"Definition":\n "d", "Instances": [', r"a\.json: not JSON"),
        (b'{"instruction": "a",\n "output": "\xff"}', r"a\.json:2: not UTF-8 \(byte 0xff"),
    ],
)
def test_bad_documents(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_examples(path))


def test_bad_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"instruction": "\xe9", "output": "b"}')
    with pytest.raises(DataError, match=r"a\.jsonl:2: not UTF-8 \(byte 0xe9 at column 18\)"):
        list(read_examples(path))
    path.write_bytes(gzip.compress(GOOD.encode() * 50)[:-12])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_examples(path))


def test_missing_file_and_empty_glob(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file or folder"):
        list(read_examples(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="no file matches"):
        list(read_examples(tmp_path / "*.jsonl"))


def test_records_with_and_without_split_do_not_mix(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ALPACA | {"split": "train"}, ALPACA)
    with pytest.raises(DataError, match=r"a\.jsonl:2: some records name a `split`"):
        list(read_examples(path))
