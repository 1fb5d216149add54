"""One optimizer step: the same on every mesh, with every accumulation, and never a NaN."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.model.lora import LoraConfig, merge_adapters
from instructrec_jax.model.t5 import T5
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import ADAPTERS_ONLY, Freezing, joined, split
from instructrec_jax.training.loss import summed_nll
from instructrec_jax.training.step import (
    StepSettings,
    initial_state,
    make_evaluation_step,
    make_train_step,
    state_shardings,
)

SETTINGS = StepSettings(
    objective="sequences",
    accumulation_steps=1,
    label_smoothing=0.0,
    z_loss=0.0,
    loss_chunk=0,
    seed=0,
)
MESHES = {
    "rows": {"slice": 1, "data": 2, "fsdp": 4, "tensor": 1},
    "tensor": {"slice": 1, "data": 2, "fsdp": 1, "tensor": 4},
    "mixed": {"slice": 2, "data": 1, "fsdp": 2, "tensor": 2},
}


def one_device_mesh():
    return mesh_of_rows(1)


def mesh_of_rows(devices):
    """Few devices: what eight of them wait for each other is most of a test's time."""
    return jax.sharding.Mesh(
        np.asarray(jax.devices()[:devices]).reshape(1, devices, 1, 1),
        sharding.AXES,
        axis_types=(jax.sharding.AxisType.Auto,) * 4,
    )


def take_step(config, batch, mesh, **choices):
    """(figures of the last step, parameters after it) as NumPy."""
    figures, state = take_steps(config, batch, mesh, **choices)
    return figures[-1], state.parameters


def take_steps(
    config,
    batch,
    mesh,
    *,
    optimizer=None,
    steps=1,
    freezing=None,
    given=None,
    task_count=0,
    **settings,
):
    """(figures of each step, state after the last) as NumPy."""
    optimizer = optimizer or optax.sgd(1.0)

    ema = "ema_decay" in settings

    def start(given):
        return initial_state(config, optimizer, seed=0, freezing=freezing, given=given, ema=ema)

    shardings = state_shardings(jax.eval_shape(start, given), mesh)
    with jax.set_mesh(mesh):
        state = jax.jit(start, out_shardings=shardings)(given)
        step = make_train_step(
            config=config,
            optimizer=optimizer,
            schedule=optax.constant_schedule(1.0),
            settings=dataclasses.replace(SETTINGS, **settings),
            mesh=mesh,
            shardings=shardings,
            task_count=task_count,
        )
        rows = len(batch["encoder_input_tokens"])
        every = []
        for _ in range(steps):
            whole = {**batch, "stop_votes": np.zeros(rows, np.int32)}
            state, figures = step(state, sharding.global_batch(mesh, whole, rows))
            every.append(jax.device_get(figures))
    return every, jax.device_get(state)


def assert_close(left, right, tolerance=2e-5):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(left),
        jax.tree_util.tree_leaves_with_path(right),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=tolerance, err_msg=str(path))


@pytest.fixture(scope="module")
def on_one_device(tiny_config, packed_batch):
    return take_step(tiny_config, packed_batch, one_device_mesh())


@pytest.fixture(scope="module")
def by_objective(tiny_config, packed_batch, on_one_device):
    tokens = take_step(tiny_config, packed_batch, one_device_mesh(), objective="tokens")
    return {"sequences": on_one_device, "tokens": tokens}


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradient_are_those_of_one_device(name, tiny_config, packed_batch, on_one_device):
    mesh = sharding.make_mesh(MESHES[name])
    figures, parameters = take_step(tiny_config, packed_batch, mesh)
    for key in ("loss", "loss_per_token", "loss_per_sequence", "gradient_norm"):
        np.testing.assert_allclose(figures[key], on_one_device[0][key], rtol=1e-5)
    # One step of plain gradient descent at rate 1: parameters differ by the gradient alone.
    assert_close(parameters, on_one_device[1])


@pytest.mark.parametrize("objective", ["sequences", "tokens"])
def test_accumulation_is_true_to_the_objective(objective, tiny_config, packed_batch, by_objective):
    whole = by_objective[objective]
    mesh = mesh_of_rows(2) if objective == "sequences" else sharding.make_mesh(MESHES["mixed"])
    parts = take_step(
        tiny_config, packed_batch, mesh, objective=objective, accumulation_steps=2, task_count=4
    )
    # Sums of tasks are over all micro-batches and devices; the last task has no example.
    ids, weights = packed_batch["decoder_task_ids"], packed_batch["decoder_loss_weights"]
    tokens = np.bincount(ids.ravel(), weights.ravel(), minlength=4)
    np.testing.assert_array_equal(parts[0]["task_tokens"], tokens)
    starts = (packed_batch["decoder_positions"] == 0) & (weights > 0)
    np.testing.assert_array_equal(parts[0]["task_sequences"], np.bincount(ids[starts], minlength=4))
    nll = parts[0]["loss_per_token"] * parts[0]["target_tokens"]
    np.testing.assert_allclose(parts[0]["task_nll"].sum(), nll, rtol=1e-5)
    for key in ("loss", "target_tokens", "sequences", "gradient_norm"):
        np.testing.assert_allclose(parts[0][key], whole[0][key], rtol=1e-5)
    assert_close(parts[1], whole[1])


def unpacked(batch):
    """One sequence a row, at the start of its row."""
    rows = []
    for row in range(len(batch["encoder_input_tokens"])):
        for segment in range(1, batch["decoder_segment_ids"][row].max() + 1):
            alone = {name: np.zeros_like(values[row]) for name, values in batch.items()}
            for side in ("encoder", "decoder"):
                here = np.flatnonzero(batch[f"{side}_segment_ids"][row] == segment)
                for name in batch:
                    if name.startswith(side):
                        alone[name][: len(here)] = batch[name][row, here]
                alone[f"{side}_segment_ids"][: len(here)] = 1
            rows.append(alone)
    return {name: np.stack([row[name] for row in rows]) for name in batch}


@pytest.mark.parametrize("objective", ["sequences", "tokens"])
def test_packed_loss_and_gradient_are_the_unpacked_ones(
    objective, tiny_config, packed_batch, by_objective
):
    alone = unpacked(packed_batch)
    assert len(alone["encoder_input_tokens"]) > len(packed_batch["encoder_input_tokens"])
    together = by_objective[objective]
    apart = take_step(tiny_config, alone, one_device_mesh(), objective=objective)
    np.testing.assert_allclose(together[0]["loss"], apart[0]["loss"], rtol=1e-5)
    assert_close(together[1], apart[1])


def test_sequence_objective_divides_by_sequences(on_one_device, packed_batch):
    figures, _ = on_one_device
    sequences = packed_batch["decoder_segment_ids"].max(axis=1).sum()
    tokens = packed_batch["decoder_loss_weights"].sum()
    assert figures["sequences"] == sequences
    assert figures["target_tokens"] == tokens
    assert figures["input_tokens"] == (packed_batch["encoder_segment_ids"] > 0).sum()
    np.testing.assert_allclose(figures["loss"], figures["loss_per_sequence"])
    np.testing.assert_allclose(
        figures["loss_per_token"] * tokens, figures["loss"] * sequences, rtol=1e-6
    )


def test_a_non_finite_loss_leaves_the_state_as_it_was(tiny_config, packed_batch):
    weights = packed_batch["decoder_loss_weights"].copy()
    weights[0, 0] = np.inf
    poisoned = {**packed_batch, "decoder_loss_weights": weights}
    mesh = sharding.make_mesh(MESHES["mixed"])
    figures, state = take_steps(
        tiny_config, poisoned, mesh, optimizer=optax.adam(1.0), steps=2, ema_decay=0.9
    )
    assert (figures[-1]["applied"], figures[-1]["nonfinite_in_a_row"]) == (0, 2)
    fresh = jax.device_get(initial_state(tiny_config, optax.adam(1.0), seed=0).parameters)
    # How random numbers are drawn may depend on the sharding in the last bit; NaN would be far off.
    assert_close(state.parameters, fresh, tolerance=1e-6)
    assert_close(state.averaged, fresh, tolerance=1e-6)


def test_parameters_are_averaged_with_a_decay_that_grows(tiny_config, packed_batch, on_one_device):
    freezing = Freezing(patterns=("encoder/final_norm/scale",))
    _, state = take_steps(
        tiny_config, packed_batch, one_device_mesh(), steps=2, freezing=freezing, ema_decay=0.15
    )
    before = initial_state(tiny_config, optax.sgd(1.0), seed=0, freezing=freezing)
    first, _ = split(on_one_device[1], freezing)
    # (1 + 0) / (10 + 0) at the first step; 2 / 11 would be above the asked decay at the second.
    one = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.trained, first)
    two = jax.tree.map(lambda old, new: 0.15 * old + 0.85 * new, one, state.trained)
    assert_close(state.averaged, two)
    whole = state.averaged_parameters
    assert_close(whole["encoder"]["final_norm"], state.frozen["encoder"]["final_norm"])
    assert_close(whole["lm_head"], two["lm_head"])


LORA = LoraConfig(rank=2, alpha=4.0, targets=r".*_attention/(query|out)|.*/feed_forward/up")


def test_adapters_alone_are_trained_from_the_base_model_on_any_mesh(
    tiny_config, packed_batch, on_one_device
):
    base = initial_state(tiny_config, optax.sgd(1.0), seed=0).parameters
    adapted = dataclasses.replace(tiny_config, lora=LORA)
    fresh = initial_state(adapted, optax.sgd(1.0), seed=1, freezing=ADAPTERS_ONLY)
    choices = {"steps": 2, "freezing": ADAPTERS_ONLY, "optimizer": optax.adam(0.1)}
    choices["given"] = joined(fresh.trained, base)
    alone, there = (
        take_steps(adapted, packed_batch, mesh, **choices)
        for mesh in (one_device_mesh(), sharding.make_mesh(MESHES["mixed"]))
    )
    np.testing.assert_allclose(alone[0][0]["loss"], on_one_device[0]["loss"], rtol=1e-6)
    assert alone[0][1]["loss"] < alone[0][0]["loss"]
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(there[0][1][key], alone[0][1][key], rtol=1e-4)
    for figures, state in (alone, there):
        assert len(figures) == 2
        jax.tree.map(np.testing.assert_array_equal, state.frozen, jax.device_get(base))
        moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state))
        assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.trained)) + 1
        for before, after in zip(
            jax.tree.leaves(fresh.trained), jax.tree.leaves(state.trained), strict=True
        ):
            assert not np.array_equal(before, after)
    merged = merge_adapters(alone[1].parameters, LORA)
    np.testing.assert_allclose(
        T5(tiny_config).apply({"params": merged}, packed_batch),
        T5(adapted).apply({"params": alone[1].parameters}, packed_batch),
        atol=2e-5,
    )


def test_frozen_parameters_have_neither_gradient_nor_state(
    tiny_config, packed_batch, on_one_device
):
    freezing = Freezing(patterns=("encoder/.*", "token_embedder/embedding", ".*/kernel"))
    [figures], state = take_steps(
        tiny_config,
        packed_batch,
        one_device_mesh(),
        freezing=freezing,
        optimizer=optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0)),
    )
    fresh = jax.device_get(initial_state(tiny_config, optax.sgd(1.0), seed=0, freezing=freezing))
    jax.tree.map(np.testing.assert_array_equal, state.frozen, fresh.frozen)
    moved = jax.tree.map(lambda new, old: new - old, state.trained, fresh.trained)
    # The norm that is clipped counts what is trained, as does the one that is reported.
    np.testing.assert_allclose(optax.tree.norm(moved), 1e-3, rtol=1e-3)
    assert 0 < figures["gradient_norm"] < on_one_device[0]["gradient_norm"]
    np.testing.assert_allclose(figures["loss"], on_one_device[0]["loss"], rtol=1e-6)


def test_evaluation_sums_are_those_of_the_model(tiny_config, packed_batch):
    mesh = sharding.make_mesh(MESHES["tensor"])
    optimizer = optax.sgd(1.0)
    state = initial_state(tiny_config, optimizer, seed=0)
    shardings = state_shardings(state, mesh)
    evaluate = make_evaluation_step(
        config=tiny_config,
        settings=dataclasses.replace(SETTINGS, label_smoothing=0.3, z_loss=1.0),
        mesh=mesh,
        shardings=shardings,
        task_count=3,
    )
    with jax.set_mesh(mesh):
        parameters = jax.device_put(state.parameters, shardings.parameters)
        sums = evaluate(parameters, sharding.global_batch(mesh, packed_batch, 16))
    logits = T5(tiny_config).apply({"params": state.parameters}, packed_batch)
    loss, expected = summed_nll(
        lambda values: values,
        logits,
        packed_batch,
        label_smoothing=0.0,
        z_loss=0.0,
        chunk=0,
        task_count=3,
    )
    assert sums.keys() == expected.keys()
    np.testing.assert_allclose(sums["nll"], loss, rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5)
