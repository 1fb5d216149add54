"""Which part of a dataset is evaluated."""

import json

import pytest

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.evaluation.data import open_evaluation_data
from instructrec_jax.evaluation.run_log import read_run
from instructrec_jax.instructions.reading import read_examples, split_of


@pytest.fixture
def plain_file(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        "".join(
            json.dumps({"instruction": f"Say {i}.", "output": str(i)}) + "\n" for i in range(200)
        )
    )
    return path


@pytest.fixture
def file_with_splits(tmp_path):
    path = tmp_path / "split.jsonl"
    splits = ["train"] * 5 + ["test"] * 2
    path.write_text(
        "".join(
            json.dumps(
                {
                    "id": str(i),
                    "task": "t",
                    "instruction": "Say.",
                    "input": "",
                    "target": "x",
                    "split": split,
                }
            )
            + "\n"
            for i, split in enumerate(splits)
        )
    )
    return path


def run_trained_on(folder, dataset):
    config = {"dataset": str(dataset), "seed": 3, "data": {"validation_fraction": 0.25}}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    return read_run(folder)


def test_test_split_and_the_train_examples(file_with_splits):
    data = open_evaluation_data(file_with_splits, split=None, run=None)
    assert [example.id for example in data.examples] == ["5", "6"]
    assert [example.id for example in data.train_examples()] == ["0", "1", "2", "3", "4"]
    assert data.split == "test"
    chosen = open_evaluation_data(file_with_splits, split="train", run=None)
    assert len(chosen.examples) == 5


def test_an_empty_split_is_an_error_that_names_the_others(file_with_splits):
    with pytest.raises(DataError, match=r"'validation'; there are: test 2, train 5.*--split"):
        open_evaluation_data(file_with_splits, split="validation", run=None)


def test_a_file_without_splits_is_taken_whole(plain_file, tmp_path):
    data = open_evaluation_data(plain_file, split=None, run=None)
    assert len(data.examples) == 200
    assert list(data.train_examples()) == []
    assert (data.split, data.note) == ("", "")
    other = run_trained_on(tmp_path, tmp_path / "other.jsonl")
    assert len(open_evaluation_data(plain_file, split=None, run=other).examples) == 200
    with pytest.raises(ConfigError, match="has no splits: leave --split=test out"):
        open_evaluation_data(plain_file, split="test", run=None)


def test_of_the_file_it_was_trained_on_only_the_part_left_out(plain_file, tmp_path):
    run = run_trained_on(tmp_path, plain_file)
    data = open_evaluation_data(plain_file, split=None, run=run)
    left_out = [
        example.id
        for example in read_examples(plain_file)
        if split_of(example, validation_fraction=0.25, seed=3) == "validation"
    ]
    assert [example.id for example in data.examples] == left_out
    assert 20 < len(left_out) < 80
    trained = [example.id for example in data.train_examples()]
    assert not set(trained) & set(left_out)
    assert len(trained) + len(left_out) == 200
    assert "trained on the rest" in data.note
    assert len(open_evaluation_data(plain_file, split="train", run=run).examples) == len(trained)


def test_a_run_started_elsewhere_is_matched_by_name(plain_file, tmp_path):
    run = run_trained_on(tmp_path, "gone/own.jsonl")
    assert open_evaluation_data(plain_file, split=None, run=run).split == "validation"


def test_missing_dataset(tmp_path):
    with pytest.raises(DataError, match="missing"):
        open_evaluation_data(tmp_path / "missing", split=None, run=None)
