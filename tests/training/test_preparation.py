"""What stands before the first step: the data of a run, its identity, and data that are too few."""

import json

import jax
import numpy as np
import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.data.plan import PackingPlan
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.training.checks import check
from instructrec_jax.training.preparation import prepare_data

SETTINGS = {
    "train.batch_size": "8",
    "data.encoder_length": "32",
    "data.decoder_length": "16",
    "data.validation_fraction": "0",
    "tokenizer.kind": "bytes",
}


def a_config(folder, **changes):
    places = {"workdir": str(folder / "run"), "dataset": str(folder / "own.jsonl")}
    config, _ = load_config("configs/tiny.py", {**SETTINGS, **places, **changes})
    return config


def prepared(folder, said=None, **changes):
    config = a_config(folder, **changes)
    say = said.append if said is not None else lambda line: None
    return config, prepare_data(config, may_build=False, initial=None, say=say)


@pytest.fixture
def write(tmp_path):
    def write_records(*records):
        lines = [json.dumps(record) for record in records]
        (tmp_path / "own.jsonl").write_text("\n".join(lines))
        return tmp_path

    return write_records


def record(number, **fields):
    task = ("count", "say")[number % 2]
    return {"id": f"e{number}", "task": task, "instruction": "Do.", "target": str(number), **fields}


CHANGES = {
    "data.max_segments": "2",
    "data.open_bins": "7",
    "data.mixture": "temperature",
    "data.mixture_cap": "3",
    "data.mixture_temperature": "2.5",
    "data.mixture_schedule": "((1, {'count': 2, 'say': 1}),)",
    "seed": "9",
    "train.batch_size": "16",
}


def test_each_setting_of_the_data_is_named_when_it_changes(write):
    folder = write(*map(record, range(30)))

    def identity(**changes):
        config, data = prepared(folder, **changes)
        # As a checkpoint keeps it.
        return json.loads(json.dumps(data.identity(config)))

    before = identity()
    assert identity() == before
    for key, value in CHANGES.items():
        after = identity(**{key: value})
        differing = {name for name in before.keys() | after if before.get(name) != after.get(name)}
        assert differing == {key, "plan"}
    explicit = {"data.mixture": "explicit"}
    one = identity(**explicit, **{"data.mixture_rates.say": "1"})
    other = identity(**explicit, **{"data.mixture_rates.say": "2", "data.mixture_rates.count": "1"})
    assert {k for k in one if one[k] != other[k]} == {"plan", "data.mixture_rates"}
    write(*map(record, range(31)))
    assert {k for k, v in identity().items() if v != before[k]} == {"plan", "dataset"}


def test_problems_of_the_data_settings_come_at_once(write):
    config = a_config(
        write(record(0)),
        **{"data.max_segments": "-1", "data.mixture_schedule": "(2, {'say': 1})"},
    )
    with pytest.raises(ConfigError) as caught:
        check(config, device_count=jax.device_count())
    assert "data.max_segments=-1: must be at least 0" in str(caught.value)
    assert "data.mixture_schedule=(2, {'say': 1}): must be like" in str(caught.value)


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_examples_than_a_batch_fill_it(write, count):
    _, data = prepared(write(*map(record, range(count))))
    plan = data.training
    rows = plan.rows_for_steps(5, 7)
    assert len(rows) == 16
    np.testing.assert_array_equal(np.bincount(rows.examples), np.full(count, 16))
    assert set(plan.example_ids(5)) == {f"e{number}" for number in range(count)}


def test_examples_longer_than_a_row_are_counted_or_named(write):
    long = record(1, input="x" * 50)
    folder = write(record(0), long, record(2))
    _, data = prepared(folder)
    assert sum(data.training_cache.dropped.values()) == 1
    assert data.training.epoch_size(0) == 2
    _, cut = prepared(folder, **{"data.over_length": "truncate_input"})
    assert cut.training_cache.truncated == 1 and cut.training.epoch_size(0) == 3
    with pytest.raises(DataError, match="e1"):
        prepared(folder, **{"data.over_length": "error"})


def test_a_task_all_of_whose_examples_are_dropped_is_not_in_the_mixture(write):
    folder = write(record(0), record(1, input="x" * 50), record(2))
    _, data = prepared(folder)
    assert data.training.sizes == {"count": 2}
    rates = {"data.mixture": "explicit", "data.mixture_rates.say": "1"}
    with pytest.raises(ConfigError, match="'say' is not in the dataset, which has the tasks count"):
        prepared(folder, **rates)


def test_no_example_that_fits_is_told(write):
    folder = write(record(0, input="x" * 50), record(1, target="y" * 50))
    with pytest.raises(DataError, match=r"no example|too long|longer"):
        prepared(folder)


def test_a_validation_split_without_an_example_that_fits_is_left_out(write):
    validation = record(1, input="x" * 50, split="validation")
    said = []
    _, data = prepared(write(record(0, split="train"), validation), said)
    assert data.validation is None
    assert any("not evaluated while it trains" in line for line in said)
    assert isinstance(data.training, PackingPlan)
