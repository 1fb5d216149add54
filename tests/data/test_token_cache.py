import gzip
import json
import multiprocessing
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from instructrec_jax.data import token_cache, token_cache_writer
from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.data.token_cache import open_token_cache
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding.batching import cut, encode_texts
from instructrec_jax.decoding.prompts import read_prompts
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.demonstrations import FewShot
from instructrec_jax.instructions.example import Demonstration
from instructrec_jax.instructions.few_shot import few_shot_text, fitted_text, token_length

RECORDS = [
    {"id": "a", "task": "t1", "instruction": "Add.", "input": "1 + 1", "target": "2"},
    {"id": "b", "task": "t2", "instruction": "Greet\n\tthe {world}.", "target": "你好"},
    {"id": "c", "task": "t1", "instruction": "Say NUL.", "input": "", "target": "\0 </s>"},
]
for record in RECORDS:
    record.setdefault("input", "")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A dataset folder with three training examples."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps({"format_version": 1}))
    write(folder, RECORDS)
    return folder


def write(folder: Path, records: list[dict]) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "train-00000-of-00001.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def open_cache(dataset, tokenizer, **changes):
    settings = {
        "split": "train",
        "encoder_length": 64,
        "decoder_length": 16,
        "over_length": "drop",
        "validation_fraction": 0.1,
        "seed": 0,
        "folder": dataset.parent / "cache",
    }
    return open_token_cache(dataset=dataset, tokenizer=tokenizer, **(settings | changes))


def texts(cache, tokenizer):
    """(encoder text, target) of each example, and a check that both end with eos."""
    found = []
    for index in range(len(cache)):
        sides = []
        for tokens, offsets in (
            (cache.encoder_tokens, cache.encoder_offsets),
            (cache.decoder_tokens, cache.decoder_offsets),
        ):
            ids = tokens[offsets[index] : offsets[index + 1]].tolist()
            assert ids[-1] == tokenizer.eos_id and ids.count(tokenizer.eos_id) == 1
            sides.append(tokenizer.decode(ids))
        found.append(tuple(sides))
    return found


def test_sentinels_are_parsed_where_they_are_asked_for(tmp_path, tokenizer):
    file = tmp_path / "spans.jsonl"
    record = {"instruction": "a <extra_id_0> c", "output": "<extra_id_0> b", "split": "train"}
    file.write_text(json.dumps(record))
    plain = open_cache(file, tokenizer, validation_fraction=0)
    parsed = open_cache(file, tokenizer, validation_fraction=0, parse_sentinels=True)
    sentinel = tokenizer.sentinel_ids[0]
    assert sentinel not in [*plain.encoder_tokens, *plain.decoder_tokens]
    assert sentinel in parsed.encoder_tokens and parsed.decoder_tokens[0] == sentinel
    assert texts(plain, tokenizer) == [("a <extra_id_0> c", "<extra_id_0> b")]


def test_holds_the_text_of_every_example(dataset, tokenizer):
    cache = open_cache(dataset, tokenizer)
    assert texts(cache, tokenizer) == [
        ("Add.\n\n1 + 1", "2"),
        ("Greet\n\tthe {world}.", "你好"),
        ("Say NUL.", "\0 </s>"),
    ]
    assert cache.tasks == ("t1", "t2") and cache.task_ids.tolist() == [0, 1, 0]
    assert [cache.example_id(index) for index in range(3)] == ["a", "b", "c"]
    assert (cache.dropped, cache.truncated, cache.unknown_tokens) == ({}, 0, 0)
    assert isinstance(cache.encoder_tokens, np.memmap)


SOLVED = [
    {"instruction": "Add.", "input": f"{n} + {n}", "target": str(2 * n)} for n in (2, 30, 400)
]


@pytest.mark.parametrize("length", [24, 40, 60, 99, 200])
def test_demonstrations_fit_whole_and_read_as_decode_reads_them(tmp_path, tokenizer, length):
    records = [{**RECORDS[0], "demonstrations": SOLVED}, *RECORDS[1:]]
    file = tmp_path / "few.jsonl"
    lines = [json.dumps({**record, "split": "train"}) for record in records]
    file.write_text("\n".join(lines))
    for each in (tokenizer, byte_tokenizer(0)):
        cache = open_cache(file, each, encoder_length=length, over_length="truncate_input")
        fit = partial(fitted_text, length=token_length(each.encode_batch), limit=length)
        prompts = list(
            read_prompts((line.encode() for line in lines), vocabulary_size=1, assemble=fit)
        )
        for place, ids in enumerate(encode_texts(each, [prompt.text for prompt in prompts])):
            found = cache.encoder_tokens[slice(*cache.encoder_offsets[place : place + 2])]
            assert cut(ids, max_length=length, eos_id=each.eos_id) == found.tolist()
        left_out = [prompt.demonstrations_left_out for prompt in prompts]
        assert cache.demonstrations_left_out == sum(left_out)
        text = few_shot_text([Demonstration(**shown) for shown in SOLVED], "Add.", "1 + 1")
        assert (left_out == [0, 0, 0]) == (prompts[0].text == text)
        assert left_out[0] or length >= 60


def test_train_examples_may_show_one_another(tmp_path, tokenizer):
    file = tmp_path / "sums.json"
    records = [
        {"instruction": "Add.", "input": f"{n} + 1", "output": str(n + 1)} for n in range(60)
    ]
    file.write_text(json.dumps(records))
    plain, few, again, other, validation = (
        open_cache(file, tokenizer, encoder_length=99, split=split, few_shot=FewShot(*few_shot))
        for split, few_shot in (
            ("train", ()),
            ("train", (0.5, 2, 0)),
            ("train", (0.5, 2, 0)),
            ("train", (0.5, 2, 1)),
            ("validation", (1.0, 2, 0)),
        )
    )
    assert few.sha256 == again.sha256 and len({plain.sha256, few.sha256, other.sha256}) == 3
    questions = {text for text, _ in texts(plain, tokenizer)}
    held_out = {text for text, _ in texts(validation, tokenizer)}
    assert len(questions) + len(held_out) == 60 and not any("Answer" in text for text in held_out)
    shown = 0
    for text, target in texts(few, tokenizer):
        *solved, asked = text.split("Add.")[1:]
        asked = f"Add.{asked}"
        assert asked in questions and len(solved) <= 2
        shown += bool(solved)
        for each in solved:
            solved_question, answer = each.rstrip().split("\nAnswer: ")
            assert f"Add.{solved_question}" in questions - {asked} and answer != target
    assert 15 < shown < 40


def test_questions_of_validation_are_not_shown_to_train(tmp_path, tokenizer):
    file = tmp_path / "sums.jsonl"
    questions = [{"instruction": "Add.", "input": f"{n} + 1", "target": "x"} for n in range(40)]
    file.write_text(
        "\n".join(json.dumps({**each, "demonstrations": questions}) for each in questions)
    )
    sizes = {"encoder_length": 999, "validation_fraction": 0.3}
    train, validation = (
        texts(open_cache(file, tokenizer, split=split, **sizes), tokenizer)
        for split in ("train", "validation")
    )
    asked = {text.rsplit("Add.", 1)[1] for text, _ in validation}
    assert 4 < len(asked) < 20
    for text, _ in train:
        shown = {each.split("\nAnswer")[0] for each in text.split("Add.")[1:-1]}
        assert len(shown) == 40 - len(asked) and not shown & asked


def test_second_opening_reads_what_the_first_wrote(dataset, tokenizer):
    said = []
    first = open_cache(dataset, tokenizer, progress=said.append)
    assert len(said) == 1 and "tokenizing the train split" in said[0]
    second = open_cache(dataset, tokenizer, progress=said.append)
    assert len(said) == 1
    assert second.sha256 == first.sha256
    for name in token_cache_writer.ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    names = sorted(path.name for path in (dataset.parent / "cache").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}.lock"


def test_batches_change_nothing(dataset, tokenizer, monkeypatch):
    whole = open_cache(dataset, tokenizer)
    monkeypatch.setattr(token_cache_writer, "_BATCH", 2)
    monkeypatch.setattr(token_cache_writer, "_PROGRESS_EVERY", 2)
    said = []
    folder = dataset.parent / "other"
    pieces = open_cache(dataset, tokenizer, folder=folder, progress=said.append)
    assert pieces.sha256 == whole.sha256
    assert said[1:] == ["tokenized 2 examples"]


def test_whatever_the_tokens_depend_on_makes_another_cache(dataset, tokenizer, corpus):
    folder = dataset.parent / "cache"
    caches = [open_cache(dataset, tokenizer)]
    for changes in ({"encoder_length": 65}, {"decoder_length": 17}, {"over_length": "error"}):
        caches.append(open_cache(dataset, tokenizer, **changes))
    other = train_tokenizer(corpus[:2], vocabulary_size=500, sentinels=10, seed=0)
    caches.append(open_cache(dataset, other))
    assert len(list(folder.glob("*.lock"))) == 5
    # The limits belong to the key, not to the tokens that came out the same.
    assert len({cache.sha256 for cache in caches}) == 2


def test_changed_source_is_read_again(dataset, tokenizer):
    before = open_cache(dataset, tokenizer)
    status = os.stat(dataset / "train-00000-of-00001.jsonl.gz")
    write(dataset, [{**RECORDS[0], "target": "3"}, *RECORDS[1:]])
    os.utime(dataset / "train-00000-of-00001.jsonl.gz", ns=(status.st_atime_ns, status.st_mtime_ns))
    after = open_cache(dataset, tokenizer)
    assert texts(after, tokenizer)[0] == ("Add.\n\n1 + 1", "3")
    assert after.sha256 != before.sha256


def test_source_that_changes_meanwhile_is_refused(dataset, tokenizer):
    def change(line: str) -> None:
        write(dataset, RECORDS[:1])

    with pytest.raises(DataError, match="changed while it was read"):
        open_cache(dataset, tokenizer, progress=change)
    assert not list((dataset.parent / "cache").glob("*.partial-*"))


def test_over_length_examples_are_dropped_and_counted(dataset, tokenizer):
    long_input = {**RECORDS[0], "id": "long", "input": "1 + " * 100}
    long_target = {**RECORDS[0], "id": "talks", "target": "2 " * 100}
    write(dataset, [*RECORDS, long_input, long_target, long_target])
    cache = open_cache(dataset, tokenizer)
    assert len(cache) == 3
    assert cache.dropped == {"encoder_over_length": 1, "decoder_over_length": 2}


def test_truncation_cuts_the_input_and_nothing_else(dataset, tokenizer):
    records = [
        {**RECORDS[0], "input": "1 + " * 100},
        {**RECORDS[0], "instruction": "Add " * 100, "input": "1"},
        {**RECORDS[0], "instruction": "Add " * 100, "input": ""},
        {**RECORDS[0], "target": "2 " * 100},
        RECORDS[1],
    ]
    write(dataset, records)
    cache = open_cache(dataset, tokenizer, over_length="truncate_input")
    assert cache.dropped == {"instruction_over_length": 2, "decoder_over_length": 1}
    assert cache.truncated == 1
    (encoder, target), untouched = texts(cache, tokenizer)
    assert cache.encoder_offsets[1] == 64
    assert encoder.startswith("Add.\n\n1 + 1 +") and target == "2"
    assert untouched == ("Greet\n\tthe {world}.", "你好")


def test_over_length_can_be_an_error_that_names_the_example(dataset, tokenizer):
    write(dataset, [*RECORDS, {**RECORDS[0], "id": "long", "input": "1 + " * 100}])
    with pytest.raises(DataError, match=r"example long has \d+ encoder and \d+ decoder tokens"):
        open_cache(dataset, tokenizer, over_length="error")
    with pytest.raises(ConfigError, match="data.over_length=cut"):
        open_cache(dataset, tokenizer, over_length="cut")


def test_nothing_left_is_an_error_with_the_reasons(dataset, tokenizer):
    with pytest.raises(DataError, match=r"each of the 3 examples .*encoder_over_length 3"):
        open_cache(dataset, tokenizer, encoder_length=2)
    with pytest.raises(DataError, match="no examples of the split 'validation'"):
        open_cache(dataset, tokenizer, split="validation")
    assert not [path for path in (dataset.parent / "cache").iterdir() if path.suffix != ".lock"]


def test_broken_record_is_named_and_leaves_nothing(dataset, tokenizer):
    path = dataset / "train-00000-of-00001.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(RECORDS[0]).encode() + b'\n{"id": "cut'))
    with pytest.raises(DataError, match=r"train-00000-of-00001\.jsonl\.gz:2"):
        open_cache(dataset, tokenizer)
    assert not [path for path in (dataset.parent / "cache").iterdir() if path.suffix != ".lock"]


def test_file_without_splits_is_divided_by_hash(tmp_path, tokenizer):
    path = tmp_path / "alpaca.jsonl"
    lines = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(200)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = [open_cache(path, tokenizer, split=split) for split in ("train", "validation")]
    ids = [{part.example_id(index) for index in range(len(part))} for part in parts]
    assert len(ids[0] | ids[1]) == 200 and not ids[0] & ids[1]
    assert 5 <= len(parts[1]) <= 40
    other = open_cache(path, tokenizer, seed=1)
    assert {other.example_id(index) for index in range(len(other))} != ids[0]


def test_damaged_cache_is_made_again(dataset, tokenizer):
    first = open_cache(dataset, tokenizer)
    [path] = [path for path in (dataset.parent / "cache").iterdir() if path.is_dir()]
    (path / "encoder_tokens.npy").write_bytes((path / "encoder_tokens.npy").read_bytes()[:-2])
    assert open_cache(dataset, tokenizer).sha256 == first.sha256
    (path / "cache.json").unlink()
    assert open_cache(dataset, tokenizer).sha256 == first.sha256
    whole, said = open_cache(dataset, tokenizer), []
    # Not as views of the files, which are changed now.
    tokens, example_id = whole.encoder_tokens.tolist(), whole.example_id(2)
    for name in ("encoder_tokens", "decoder_tokens", "task_ids", "id_bytes", "encoder_offsets"):
        content = bytearray((path / f"{name}.npy").read_bytes())
        content[-2] ^= 4
        (path / f"{name}.npy").write_bytes(content)
        again = open_cache(dataset, tokenizer, progress=said.append)
        assert (again.encoder_tokens.tolist(), again.example_id(2)) == (tokens, example_id)
        assert sum("is damaged and made anew" in line for line in said) >= 1
        said.clear()
    open_cache(dataset, tokenizer, progress=said.append)
    assert said == []


def test_leftovers_of_a_killed_writer_are_no_cache(dataset, tokenizer):
    cache = open_cache(dataset, tokenizer)
    folder = dataset.parent / "cache"
    [path] = [path for path in folder.iterdir() if path.is_dir()]
    path.rename(folder / f"{path.name}.partial-0123")
    assert open_cache(dataset, tokenizer).sha256 == cache.sha256
    assert not list(folder.glob("*.partial-*"))


def test_folder_that_cannot_be_written_is_named(dataset, tokenizer):
    (dataset.parent / "file").write_text("")
    with pytest.raises(ConfigError, match="set data.cache to another folder"):
        open_cache(dataset, tokenizer, folder=dataset.parent / "file")


def test_characters_lost_to_unk_are_reported(dataset, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts, **_: [[2, 7] for _ in texts])
    said = []
    cache = open_cache(dataset, tokenizer, progress=said.append)
    assert cache.unknown_tokens == 6
    assert "33.3% of the tokens" in said[-1]


def _open_and_report(dataset, model_bytes, barrier, queue):
    from instructrec_jax.data.tokenizer import tokenizer_from_bytes

    said: list[str] = []
    tokenizer = tokenizer_from_bytes(model_bytes, 10)
    barrier.wait()
    cache = open_cache(dataset, tokenizer, progress=said.append)
    queue.put((cache.sha256, sum("tokenizing" in line for line in said)))


def test_of_several_processes_one_writes(dataset, tokenizer):
    write(dataset, [{**RECORDS[0], "id": str(number)} for number in range(20_000)])
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    arguments = (dataset, tokenizer.model_bytes, barrier, queue)
    processes = [context.Process(target=_open_and_report, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({sha256 for sha256, _ in reports}) == 1
    assert sum(written for _, written in reports) == 1


def test_cache_survives_the_dataset_moving(dataset, tokenizer):
    said = []
    first = open_cache(dataset, tokenizer)
    moved = shutil.move(dataset, dataset.parent / "moved")
    second = open_cache(Path(moved), tokenizer, progress=said.append)
    assert second.sha256 == first.sha256 and said == []


def test_a_recipes_cache_depends_on_the_prepared_data_behind_it(tmp_path, monkeypatch):
    prepared = tmp_path / "data" / "reviews" / "1.0.0"
    prepared.mkdir(parents=True)
    shard = prepared / "reviews-train.tfrecord-00000-of-00001"
    shard.write_bytes(b"first")
    recipe = tmp_path / "reviews.tfds.json"
    record = {"name": "reviews:1.0.0", "data_dir": str(tmp_path / "data")}
    recipe.write_text(json.dumps(record))
    assert token_cache._prepared_files([recipe, tmp_path / "other.jsonl"]) == [shard]
    before = token_cache._listing([shard])
    shard.write_bytes(b"second")
    assert token_cache._listing([shard]) != before
    recipe.write_text(json.dumps({"name": "reviews:1.0.0"}))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    assert token_cache._prepared_files([recipe]) == [shard]
    for damaged in ("[]", "{", "{}", '{"name": 1}', '{"name": "none:1.0.0"}'):
        recipe.write_text(damaged)
        assert token_cache._prepared_files([recipe]) == []
