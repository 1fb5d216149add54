"""Memory by formula, against XLA's plan of the same step."""

import dataclasses

import jax
import optax
import pytest

from instructrec_jax.model.config import T5Config
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import Freezing
from instructrec_jax.training.memory import batch_shapes, planned_memory, predicted_memory
from instructrec_jax.training.optimizer import make_optimizer
from instructrec_jax.training.step import (
    StepSettings,
    initial_state,
    make_train_step,
    state_shardings,
)

# Wide enough that no single small buffer decides.
CONFIG = T5Config(
    vocabulary_size=2048,
    d_model=128,
    head_size=32,
    num_heads=4,
    d_ff=256,
    num_encoder_layers=3,
    num_decoder_layers=3,
    activation_dtype="float32",
)


def both(
    mesh,
    *,
    name="adamw",
    rows=16,
    accumulation_steps=1,
    loss_chunk=0,
    freezing=None,
    ema=False,
    **changes,
):
    """(what is predicted, XLA's plan) of a step."""
    freezing = freezing or Freezing()
    config = dataclasses.replace(CONFIG, **changes)
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh, strict=True)))
    schedule = optax.constant_schedule(0.1)
    optimizer = make_optimizer(
        name=name, options={}, schedule=schedule, clip_norm=0.0, weight_decay=0.0, decay=()
    )
    settings = StepSettings("tokens", accumulation_steps, 0.0, 0.0, loss_chunk, 0, 0.9 * ema)
    shapes = jax.eval_shape(
        lambda: initial_state(config, optimizer, seed=0, freezing=freezing, ema=ema)
    )
    shardings = state_shardings(shapes, mesh)
    step = make_train_step(
        config=config,
        optimizer=optimizer,
        schedule=schedule,
        settings=settings,
        mesh=mesh,
        shardings=shardings,
        task_count=3,
    )
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    batch = batch_shapes(mesh, rows=rows, encoder_length=96, decoder_length=64, tasks=True)
    predicted = predicted_memory(
        shapes,
        batch,
        model=config,
        optimizer=optimizer,
        settings=settings,
        freezing=freezing,
        mesh=mesh,
    )
    return predicted, planned_memory(step, shapes, batch, mesh)


@pytest.mark.parametrize(
    ("mesh", "changes"),
    [
        ((2, 1, 2, 2), {"remat": "full", "accumulation_steps": 2, "loss_chunk": 16, "ema": True}),
        ((1, 2, 4, 1), {"freezing": Freezing(patterns=("encoder/.*",)), "dropout_rate": 0.1}),
        # Its products of matrices are what most is taken by.
        ((1, 1, 8, 1), {"name": "muon", "rows": 8, "remat": "full", "d_model": 256}),
    ],
    ids=["full, accumulated", "none, frozen encoder", "muon"],
)
def test_the_prediction_is_no_less_than_xlas_plan_and_near_it(mesh, changes):
    predicted, (arguments, temporary, outputs) = both(mesh, **changes)
    assert predicted.arguments == arguments
    assert temporary <= predicted.temporary < 1.5 * temporary
    # Figures alone: the state lies where it lay.
    assert outputs < 2000


def test_more_remat_and_smaller_pieces_take_less():
    mesh = sharding.make_mesh({"slice": 1, "data": 2, "fsdp": 2, "tensor": 2})
    shapes = jax.eval_shape(lambda: initial_state(CONFIG, optax.sgd(0.1), seed=0))
    shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        state_shardings(shapes, mesh),
    )

    def activations(*, rows=16, accumulation_steps=1, loss_chunk=0, **changes):
        return predicted_memory(
            shapes,
            batch_shapes(mesh, rows=rows, encoder_length=96, decoder_length=64, tasks=False),
            model=dataclasses.replace(CONFIG, **changes),
            optimizer=optax.sgd(0.1),
            settings=StepSettings("tokens", accumulation_steps, 0.0, 0.0, loss_chunk, 0),
            freezing=Freezing(),
            mesh=mesh,
        ).activations

    none, full = activations(), activations(remat="full")
    assert none > 1.5 * activations(remat="projections") > 3 * full
    # Twice the rows, twice the activations; bfloat16 keeps attention weights in float32 too.
    assert activations(rows=32) == pytest.approx(2 * none, rel=0.02)
    assert activations(rows=32, accumulation_steps=2) == none
    assert 0.5 * none < activations(activation_dtype="bfloat16") < none
    # Logits of all places, and their softmax, are not kept.
    saved_by_chunks = full - activations(remat="full", loss_chunk=16)
    assert saved_by_chunks > 2 * 4 * 4 * 64 * 1024
