import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.pipeline import FEATURES, evaluation_batches, training_batches
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.errors import ConfigError

CONFIG = PlanConfig(encoder_length=64, decoder_length=24, batch_size=8, seed=5)
# All that changes rows: a cap, a mixture by epoch, blocks smaller than an epoch.
FULL = dataclasses.replace(
    CONFIG,
    max_segments=3,
    mixture="temperature",
    mixture_cap=150,
    mixture_temperature=2.0,
    mixture_schedule=((1, (("classify", 1.0), ("translate", 3.0))),),
    block_examples=100,
)


def batches(plan, start, stop, index=0, count=1):
    return list(
        training_batches(
            plan, start_step=start, stop_step=stop, process_index=index, process_count=count
        )
    )


def packed_by_hand(cache, rows, config):
    """The features of some rows, token by token in plain Python."""
    shapes = dict.fromkeys(FEATURES[:3], config.encoder_length)
    shapes |= dict.fromkeys(FEATURES[3:], config.decoder_length)
    batch = {name: np.zeros((len(rows), length)) for name, length in shapes.items()}
    for row in range(len(rows)):
        encoder_column = decoder_column = 0
        members = rows.examples[rows.offsets[row] : rows.offsets[row + 1]]
        for segment, example in enumerate(members, start=1):
            tokens = cache.encoder_tokens[slice(*cache.encoder_offsets[example : example + 2])]
            for position, token in enumerate(tokens):
                batch["encoder_input_tokens"][row, encoder_column] = token
                batch["encoder_segment_ids"][row, encoder_column] = segment
                batch["encoder_positions"][row, encoder_column] = position
                encoder_column += 1
            before = 0
            targets = cache.decoder_tokens[slice(*cache.decoder_offsets[example : example + 2])]
            for position, token in enumerate(targets):
                batch["decoder_input_tokens"][row, decoder_column] = before
                batch["decoder_target_tokens"][row, decoder_column] = token
                batch["decoder_segment_ids"][row, decoder_column] = segment
                batch["decoder_positions"][row, decoder_column] = position
                batch["decoder_loss_weights"][row, decoder_column] = 1
                batch["decoder_task_ids"][row, decoder_column] = cache.task_ids[example]
                before = token
                decoder_column += 1
    return batch


def assert_same(actual, expected):
    assert tuple(actual) == FEATURES
    for name in FEATURES:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_the_row_of_the_documentation(make_cache):
    cache = make_cache([([7, 8, 1], [5, 1]), ([9, 1], [6, 4, 1])])
    tasks = tuple("abcde")
    cache = dataclasses.replace(cache, tasks=tasks, task_ids=np.array([2, 4], np.int32))
    config = PlanConfig(encoder_length=8, decoder_length=6, batch_size=1, shuffle=False)
    [batch] = evaluation_batches(PackingPlan(cache, config))
    expected = {
        "encoder_input_tokens": [[7, 8, 1, 9, 1, 0, 0, 0]],
        "encoder_segment_ids": [[1, 1, 1, 2, 2, 0, 0, 0]],
        "encoder_positions": [[0, 1, 2, 0, 1, 0, 0, 0]],
        "decoder_input_tokens": [[0, 5, 0, 6, 4, 0]],
        "decoder_target_tokens": [[5, 1, 6, 4, 1, 0]],
        "decoder_segment_ids": [[1, 1, 2, 2, 2, 0]],
        "decoder_positions": [[0, 1, 0, 1, 2, 0]],
        "decoder_loss_weights": [[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]],
        "decoder_task_ids": [[2, 2, 4, 4, 4, 0]],
    }
    assert_same(batch, expected)
    types = {name: str(values.dtype) for name, values in batch.items()}
    assert types.pop("decoder_loss_weights") == "float32"
    assert set(types.values()) == {"int32"}


def test_empty_encoder_side_keeps_segments_in_step(make_cache):
    """SeqIO numbers the segments of each side by themselves: the second target would read the
    third input."""
    cache = make_cache([([7, 1], [5, 1]), ([], [6, 1]), ([8, 1], [4, 1])])
    config = PlanConfig(encoder_length=8, decoder_length=8, batch_size=1, shuffle=False)
    [batch] = evaluation_batches(PackingPlan(cache, config))
    segment_of = dict(
        zip(batch["decoder_target_tokens"][0], batch["decoder_segment_ids"][0], strict=True)
    )
    inputs = dict(
        zip(batch["encoder_segment_ids"][0], batch["encoder_input_tokens"][0], strict=True)
    )
    assert sorted(segment_of[target] for target in (5, 6, 4)) == [1, 2, 3]
    assert segment_of[6] not in inputs
    tokens, segments = batch["encoder_input_tokens"][0], batch["encoder_segment_ids"][0]
    assert segments[tokens == 7] == segment_of[5]
    assert segments[tokens == 8] == segment_of[4]


def test_token_id_zero_is_no_padding(make_cache):
    """SeqIO takes token id 0 for padding and cuts the sequence there."""
    cache = make_cache([([0, 7, 0, 1], [0, 0, 5, 1])])
    config = PlanConfig(encoder_length=6, decoder_length=5, batch_size=1)
    [batch] = evaluation_batches(PackingPlan(cache, config))
    assert batch["encoder_input_tokens"].tolist() == [[0, 7, 0, 1, 0, 0]]
    assert batch["encoder_segment_ids"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert batch["decoder_target_tokens"].tolist() == [[0, 0, 5, 1, 0]]
    assert batch["decoder_input_tokens"].tolist() == [[0, 0, 0, 5, 0]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 1, 1, 0]]


def test_decoder_inputs_never_cross_a_segment(instruction_cache):
    """Flax's wmt example shifts packed targets as a whole: segments start with the eos before."""
    [batch] = batches(PackingPlan(instruction_cache, CONFIG), 2, 3)
    starts = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)
    assert starts.sum() > 2 * CONFIG.batch_size
    assert (batch["decoder_input_tokens"][starts] == 0).all()
    inside = batch["decoder_positions"][:, 1:] > 0
    np.testing.assert_array_equal(
        batch["decoder_input_tokens"][:, 1:][inside], batch["decoder_target_tokens"][:, :-1][inside]
    )


TOKENS = st.lists(st.integers(0, 70_000), max_size=9)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=25), st.integers(1, 4))
@settings(deadline=None, max_examples=12)
def test_equals_packing_by_hand(make_cache, examples, batch_size):
    cache = make_cache(examples, [f"task {len(example[1]) % 3}" for example in examples])
    config = PlanConfig(encoder_length=12, decoder_length=10, batch_size=batch_size)
    plan = PackingPlan(cache, config)
    for step, batch in enumerate(batches(plan, 0, 3)):
        assert_same(batch, packed_by_hand(cache, plan.rows_for_steps(step, step + 1), config))


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_any_number_of_hosts_sees_the_same_global_batches(instruction_cache, hosts):
    # The first steps, and some of the second phase of a mixture.
    for config, first in ((CONFIG, 0), (FULL, 30)):
        _check_hosts(instruction_cache, config, first, first + 4, hosts)


def _check_hosts(cache, config, first, last, hosts):
    alone = batches(PackingPlan(cache, config), first, last)
    parts = [batches(PackingPlan(cache, config), first, last, host, hosts) for host in range(hosts)]
    for step in range(last - first):
        joined = {
            name: np.concatenate([parts[host][step][name] for host in range(hosts)])
            for name in FEATURES
        }
        assert_same(joined, alone[step])


def test_resumed_run_sees_what_an_uninterrupted_one_does(instruction_cache, monkeypatch):
    monkeypatch.setattr("instructrec_jax.data.pipeline._MINIMUM_STEPS", (1, 4))
    steps = 70
    plan = PackingPlan(instruction_cache, FULL)
    whole = batches(plan, 0, steps)
    assert len(whole) == steps
    assert plan.epoch_of_step(steps - 1) >= 2
    for start in (1, 37, steps - 1):
        resumed_plan = PackingPlan(instruction_cache, FULL)
        assert resumed_plan.open_at(plan.bookmark(start)) or start == 1
        rest = batches(resumed_plan, start, steps)
        assert len(rest) == steps - start
        for resumed, uninterrupted in zip(rest, whole[start:], strict=True):
            assert_same(resumed, uninterrupted)


def test_short_epochs_share_pipelines(instruction_cache, monkeypatch):
    plan = PackingPlan(instruction_cache, dataclasses.replace(CONFIG, max_examples=20))
    built = []

    def count(plan, rows, *hosts):
        steps = len(rows) // plan.config.batch_size
        built.append(steps)
        return iter([{}] * steps)

    monkeypatch.setattr("instructrec_jax.data.pipeline._batches", count)
    assert len(batches(plan, 0, 2_100)) == 2_100
    assert built == [64, 128, 256, 512, 1_024, 116]


def test_training_rows_hold_each_example_once_an_epoch(instruction_cache):
    plan = PackingPlan(instruction_cache, dataclasses.replace(CONFIG, batch_size=1))
    rows = len(plan.epoch_rows(0))
    segments = [batch["decoder_segment_ids"].max() for batch in batches(plan, 0, rows)]
    assert sum(segments) == 2_000


@pytest.mark.parametrize("hosts", [1, 4])
def test_evaluation_takes_each_example_once_and_fills_up_with_empty_rows(instruction_cache, hosts):
    config = dataclasses.replace(CONFIG, batch_size=64, shuffle=False)
    plan = PackingPlan(instruction_cache, config)
    parts = [
        list(evaluation_batches(plan, process_index=host, process_count=hosts))
        for host in range(hosts)
    ]
    missing = -len(plan.epoch_rows(0)) % 64
    assert missing and {len(part) for part in parts} == {-(-len(plan.epoch_rows(0)) // 64)}
    assert {batch["decoder_loss_weights"].shape for part in parts for batch in part} == {
        (64 // hosts, 24)
    }
    examples = [batch["decoder_segment_ids"].max(axis=1) for part in parts for batch in part]
    assert np.sum(examples) == 2_000
    last = parts[-1][-1]
    assert not any(values[-missing:].any() for values in last.values())


def test_evaluation_of_fewer_rows_than_hosts(make_cache):
    cache = make_cache([([7, 1], [5, 1])])
    plan = PackingPlan(cache, dataclasses.replace(CONFIG, shuffle=False))
    [batch] = evaluation_batches(plan, process_index=7, process_count=8)
    assert batch["encoder_input_tokens"].shape == (1, 64)
    assert not batch["decoder_loss_weights"].any()


def test_batch_must_divide_among_the_hosts(instruction_cache):
    plan = PackingPlan(instruction_cache, CONFIG)
    with pytest.raises(ConfigError, match="8 rows, not a multiple of the 3 processes"):
        training_batches(plan, start_step=0, stop_step=1, process_index=0, process_count=3)


def test_tokens_are_read_where_they_lie(tmp_path, make_cache):
    """A memory-mapped array is not copied, neither into a tensor nor into a graph."""
    from instructrec_jax.data.pipeline import _in_place

    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=np.uint16))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="c")
    tensor = _in_place(mapped)
    mapped[3] = 77
    assert tensor[3].numpy() == 77
    read_only = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    assert _in_place(read_only)[3].numpy() == 3
