import dataclasses
import hashlib
import json

import numpy as np
import pytest

from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.errors import ConfigError, DataError

CONFIG = PlanConfig(encoder_length=64, decoder_length=24, batch_size=8, seed=5)


def as_lists(rows):
    return [part.tolist() for part in np.split(rows.examples, rows.offsets[1:-1])]


def test_each_example_once_an_epoch(instruction_cache):
    plan = PackingPlan(instruction_cache, CONFIG)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(plan.epoch_rows(epoch).examples), np.arange(2_000))
    assert as_lists(plan.epoch_rows(0)) != as_lists(plan.epoch_rows(1))


def test_steps_are_the_epochs_one_after_another(instruction_cache):
    plan = PackingPlan(instruction_cache, CONFIG)
    rows = as_lists(plan.epoch_rows(0)) + as_lists(plan.epoch_rows(1))
    rows += as_lists(plan.epoch_rows(2))
    steps = len(rows) // 8
    assert as_lists(plan.rows_for_steps(0, steps)) == rows[: 8 * steps]
    # A fresh plan, as after a restart, one step at a time and across the borders of epochs.
    resumed = PackingPlan(instruction_cache, CONFIG)
    for step in (steps - 1, len(plan.epoch_rows(0)) // 8, 3):
        assert as_lists(resumed.rows_for_steps(step, step + 1)) == rows[8 * step : 8 * step + 8]
    # The epoch of a step is that of its first row.
    last_of_first = (len(plan.epoch_rows(0)) - 1) // 8
    steps = (0, last_of_first, last_of_first + 1)
    assert [plan.epoch_of_step(step) for step in steps] == [0, 0, 1]


# Blocks of 250 examples, and epochs of 2,000, then of 700 or so.
BLOCKS = dataclasses.replace(
    CONFIG,
    block_examples=250,
    max_segments=4,
    mixture_schedule=((2, (("classify", 1.0), ("translate", 2.0))),),
)


def test_blocks_make_up_their_epoch(instruction_cache):
    plan = PackingPlan(instruction_cache, BLOCKS)
    assert [plan.block_count(epoch) for epoch in (0, 1, 2)] == [8, 8, 5]
    for epoch in (0, 2):
        rows = plan.epoch_rows(epoch)
        assert np.diff(rows.offsets).max() <= 4
        parts = [
            as_lists(plan.block_rows(epoch, block)) for block in range(plan.block_count(epoch))
        ]
        assert [row for part in parts for row in part] == as_lists(rows)
        assert len(rows.examples) == plan.epoch_size(epoch)
    np.testing.assert_array_equal(np.sort(plan.epoch_rows(0).examples), np.arange(2_000))
    counts = np.bincount(instruction_cache.task_ids[plan.epoch_rows(2).examples])
    assert dict(zip(instruction_cache.tasks, counts, strict=False)) == {
        task: count for task, count in plan.phases[1].counts.items() if task != "summarise"
    } | {"summarise": 0}


def test_blocks_pack_nearly_as_well_as_whole_epochs(instruction_cache):
    whole = PackingPlan(instruction_cache, CONFIG).statistics(0)
    blocks = PackingPlan(instruction_cache, dataclasses.replace(CONFIG, block_examples=1_000))
    reckoned = blocks.statistics(0)
    assert reckoned["examples"] == 2_000
    assert reckoned["rows"] == pytest.approx(len(blocks.epoch_rows(0)), rel=0.02)
    assert reckoned["rows"] == pytest.approx(whole["rows"], rel=0.03)


def test_a_bookmark_finds_its_block_without_those_before(instruction_cache, monkeypatch):
    plan = PackingPlan(instruction_cache, BLOCKS)
    last = 150
    whole = as_lists(plan.rows_for_steps(0, last))
    assert plan.epoch_of_step(last - 1) >= 1
    planned = []
    plan_block = PackingPlan._plan_block
    monkeypatch.setattr(
        PackingPlan,
        "_plan_block",
        lambda self, place: planned.append(place) or plan_block(self, place),
    )
    monkeypatch.setattr(PackingPlan, "_start_ahead", lambda self, place: None)
    for step in (0, 60, last - 1):
        resumed = PackingPlan(instruction_cache, BLOCKS)
        # As a checkpoint's JSON gives it back.
        assert resumed.open_at(json.loads(json.dumps(plan.bookmark(step))))
        planned.clear()
        assert as_lists(resumed.rows_for_steps(step, step + 1)) == whole[8 * step : 8 * step + 8]
        assert len(planned) <= 2
        # What lies before it is found too.
        assert as_lists(resumed.rows_for_steps(1, 3)) == whole[8:24]
        assert as_lists(resumed.rows_for_steps(step, last)) == whole[8 * step :]


def test_a_bookmark_is_taken_only_if_it_is_whole_and_of_this_plan(instruction_cache):
    plan = PackingPlan(instruction_cache, BLOCKS)
    expected = as_lists(plan.rows_for_steps(100, 101))
    bookmark = plan.bookmark(100)
    assert bookmark["row"] > 0
    other = PackingPlan(instruction_cache, dataclasses.replace(BLOCKS, seed=6))
    assert not other.open_at(bookmark)
    resumed = PackingPlan(instruction_cache, BLOCKS)
    spoilt = [None, {}, 7, {**bookmark, "row": bookmark["row"] + 1}, {**bookmark, "block": "x"}]
    spoilt.append({key: value for key, value in bookmark.items() if key != "check"})
    assert not any(resumed.open_at(each) for each in spoilt)
    assert as_lists(resumed.rows_for_steps(100, 101)) == expected


def test_early_epochs_are_planned_again_when_asked_for(instruction_cache):
    plan = PackingPlan(instruction_cache, CONFIG)
    first = as_lists(plan.epoch_rows(0))
    for epoch in range(8):
        plan.epoch_rows(epoch)
    assert as_lists(plan.epoch_rows(0)) == first


def test_lengths_do_not_go_with_time(instruction_cache, instruction_lengths):
    plan = PackingPlan(instruction_cache, CONFIG)
    rows = plan.epoch_rows(0)
    per_row = np.diff(rows.offsets)
    correlation = np.corrcoef(np.arange(len(rows)), per_row)[0, 1]
    assert abs(correlation) < 0.1


def test_three_examples_fill_any_number_of_steps(make_cache):
    cache = make_cache([([5, 1], [6, 1]), ([7, 8, 1], [1]), ([1], [9, 9, 1])])
    plan = PackingPlan(cache, dataclasses.replace(CONFIG, batch_size=4))
    rows = plan.rows_for_steps(0, 50)
    assert len(rows) == 200
    assert all(sorted(row) == [0, 1, 2] for row in as_lists(rows))
    assert plan.epoch_of_step(49) == 196


def test_small_epochs_are_planned_together_as_they_are_alone(make_cache):
    lengths = [(3, 2), (5, 4), (5, 4), (2, 6), (1, 1), (8, 2), (4, 4)]
    cache = make_cache(
        [([5] * encoder, [6] * decoder) for encoder, decoder in lengths], tasks=[*"ababab", "b"]
    )
    rates = (("a", 1.0), ("b", 4.0))
    config = dataclasses.replace(
        CONFIG,
        encoder_length=9,
        decoder_length=7,
        max_segments=2,
        mixture_schedule=((3, rates), (2400, (("b", 1.0),))),
    )
    plan = PackingPlan(cache, config)
    for epoch in (0, 2, 3, 4, 2399, 2400, 5000):
        alone = plan._plan_block((epoch, 0))
        assert as_lists(plan.block_rows(epoch, 0)) == as_lists(alone)
    # A run that goes on far from the first step finds its place at once.
    step = 5000
    expected = as_lists(plan.rows_for_steps(step, step + 2))
    resumed = PackingPlan(cache, config)
    assert resumed.open_at(plan.bookmark(step))
    assert as_lists(resumed.rows_for_steps(step, step + 2)) == expected
    assert len(plan._places) < 20


def test_ids_of_a_step_are_those_of_its_rows(make_cache):
    cache = make_cache([([5, 1], [6, 1]), ([7, 8, 1], [1]), ([1], [9, 9, 1])])
    names = dataclasses.replace(
        cache, id_bytes=np.frombuffer("aéb".encode(), np.uint8), id_offsets=np.array([0, 1, 3, 4])
    )
    plan = PackingPlan(names, dataclasses.replace(CONFIG, batch_size=1))
    for step in (0, 7):
        rows = plan.rows_for_steps(step, step + 1)
        assert plan.example_ids(step) == [["a", "é", "b"][index] for index in rows.examples]
    unnamed = PackingPlan(cache, dataclasses.replace(CONFIG, batch_size=1))
    assert sorted(unnamed.example_ids(0)) == ["#0", "#1", "#2"]


def test_statistics_count_both_sides(make_cache):
    cache = make_cache([([5, 5, 1], [6, 1]), ([7, 1], [1])])
    plan = PackingPlan(cache, PlanConfig(encoder_length=10, decoder_length=4, batch_size=1))
    assert plan.statistics(0) == {
        "examples": 2,
        "rows": 1,
        "encoder_fill": 0.5,
        "decoder_fill": 0.75,
        "examples_per_row": 2.0,
    }


def test_mixture_rates_are_met_in_every_epoch(instruction_cache):
    config = dataclasses.replace(
        CONFIG, mixture="explicit", mixture_rates=(("translate", 0.2), ("classify", 0.8))
    )
    plan = PackingPlan(instruction_cache, config)
    names = np.array(instruction_cache.tasks)
    for epoch in (0, 1):
        drawn = names[instruction_cache.task_ids[plan.epoch_rows(epoch).examples]]
        assert np.mean(drawn == "classify") == pytest.approx(0.8, abs=1 / len(drawn))
        assert not (drawn == "summarise").any()


def test_max_examples_bounds_an_epoch(instruction_cache):
    config = dataclasses.replace(CONFIG, max_examples=100, shuffle=False)
    plan = PackingPlan(instruction_cache, config)
    assert plan.statistics(0)["examples"] == 100
    assert sum(plan.phases[0].counts.values()) == plan.epoch_size(3) == 100


def test_hash_changes_with_all_that_changes_the_batches(instruction_cache, make_cache):
    plan = PackingPlan(instruction_cache, CONFIG)
    assert plan.sha256 == PackingPlan(instruction_cache, CONFIG).sha256
    changes = {
        "encoder_length": 65,
        "decoder_length": 25,
        "batch_size": 16,
        "seed": 6,
        "open_bins": 32,
        "mixture": "temperature",
        "mixture_cap": 10,
        "mixture_temperature": 2.0,
        "max_examples": 10,
        "shuffle": False,
        "max_segments": 3,
        "mixture_schedule": ((1, (("translate", 1.0),)),),
        "block_examples": 999,
    }
    hashes = {
        PackingPlan(instruction_cache, dataclasses.replace(CONFIG, **{key: value})).sha256
        for key, value in changes.items()
    }
    other_tokens = make_cache([([5, 1], [6, 1])])
    hashes |= {plan.sha256, PackingPlan(other_tokens, CONFIG).sha256}
    assert len(hashes) == len(changes) + 2
    named = {field.name for field in dataclasses.fields(PlanConfig)} - {"mixture_rates"}
    assert named == set(changes), "a new setting must be added to this test"


def test_one_example_a_task_and_one_in_all(make_cache):
    tasks = ["a", "b", "c"]
    cache = make_cache([([5, 1], [6, 1])] * 3, tasks)
    plan = PackingPlan(cache, dataclasses.replace(CONFIG, mixture="temperature", batch_size=2))
    assert plan.phases[0].counts == {"a": 1, "b": 1, "c": 1}
    assert as_lists(plan.rows_for_steps(4, 5)) != [[]]
    single = PackingPlan(make_cache([([5, 1], [6, 1])]), CONFIG)
    assert as_lists(single.rows_for_steps(9, 11)) == [[0]] * 16
    assert single.statistics(0)["rows"] == 1


def test_example_over_the_row_is_named(make_cache):
    cache = make_cache([([1], [1]), ([5] * 65, [1])])
    with pytest.raises(DataError, match=r"example #1 has 65 encoder tokens, a row has 64"):
        PackingPlan(cache, CONFIG)


def test_a_negative_cap_is_refused(instruction_cache):
    with pytest.raises(ConfigError, match="data.max_segments is -1: it must be 0 or more"):
        PackingPlan(instruction_cache, dataclasses.replace(CONFIG, max_segments=-1))


@pytest.mark.parametrize("key", ["encoder_length", "decoder_length", "batch_size", "open_bins"])
def test_settings_below_one_are_refused(instruction_cache, key):
    with pytest.raises(ConfigError, match=f"{key} is 0"):
        PackingPlan(instruction_cache, dataclasses.replace(CONFIG, **{key: 0}))


def test_no_examples_is_an_error(make_cache):
    with pytest.raises(DataError, match="no examples"):
        PackingPlan(make_cache([]), CONFIG)


def test_rows_are_the_same_for_good(make_cache):
    # A change here changes every run's batches: raise PLAN_VERSION with it.
    lengths = zip(shuffled(300, "encoder") % 60, shuffled(300, "decoder") % 20, strict=True)
    cache = make_cache([([5] * encoder, [6] * decoder) for encoder, decoder in lengths])
    rows = PackingPlan(cache, CONFIG).rows_for_steps(3, 30)
    digest = hashlib.sha256(rows.examples.astype("<i8").tobytes())
    digest.update(rows.offsets.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "389fba2ffa3ce4d9"
