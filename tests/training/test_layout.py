"""What a compiled step keeps and moves: shapes a device in XLA's own program."""

import re

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training import sharding
from instructrec_jax.training.optimizer import make_optimizer
from instructrec_jax.training.step import (
    StepSettings,
    initial_state,
    make_train_step,
    state_shardings,
)

# No two axes of parameters and activations are of the same size.
CONFIG = T5Config(
    vocabulary_size=256,
    d_model=32,
    head_size=6,
    num_heads=8,
    d_ff=80,
    num_encoder_layers=3,
    num_decoder_layers=2,
    activation_dtype="float32",
)
ROWS, ENCODER_LENGTH, DECODER_LENGTH = 16, 40, 24
OPTIONS = {
    "adafactor": {"min_dim_size_to_factor": 8},
    "adamw": {},
    "adamw_rms": {},
    "lion": {},
    "muon": {"ns_steps": 2},
}


def optimizer_of(name, weight_decay=0.1):
    return make_optimizer(
        name=name,
        options=OPTIONS[name],
        schedule=optax.constant_schedule(0.1),
        clip_norm=1.0,
        weight_decay=weight_decay,
        decay=(".*kernel",),
    )


def placed(shapes, shardings):
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )


def compiled_step(mesh, optimizer, *, accumulation_steps, ema):
    """(shapes and shardings of the state that were asked for, the compiled step)."""
    shapes = jax.eval_shape(lambda: initial_state(CONFIG, optimizer, seed=0, ema=ema))
    shardings = state_shardings(shapes, mesh)
    step = make_train_step(
        config=CONFIG,
        optimizer=optimizer,
        schedule=optax.constant_schedule(0.1),
        settings=StepSettings("sequences", accumulation_steps, 0.0, 1e-4, 0, 0, 0.99),
        mesh=mesh,
        shardings=shardings,
        task_count=7,
    )
    sizes = {"encoder": ENCODER_LENGTH, "decoder": DECODER_LENGTH}
    features = [
        *((side, name) for side in sizes for name in ("input_tokens", "segment_ids", "positions")),
        *(("decoder", name) for name in ("target_tokens", "task_ids", "loss_weights")),
    ]
    batch = {
        f"{side}_{name}": ((ROWS, sizes[side]), np.float32 if "weights" in name else np.int32)
        for side, name in features
    }
    batch["stop_votes"] = ((ROWS,), np.int32)
    rows = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, (shape, dtype) in batch.items()
    }
    with jax.set_mesh(mesh):
        return shapes, shardings, step.lower(placed(shapes, shardings), batch).compile()


def gathered(compiled):
    """(type, shape) of what each all-gather of a program gives."""
    found = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather", compiled.as_text())
    return {(kind, tuple(map(int, shape.split(",")))) for kind, shape in found}


def test_nothing_is_whole_where_the_mesh_splits_it():
    mesh = sharding.make_mesh({"slice": 2, "data": 1, "fsdp": 2, "tensor": 2})
    adamw = optimizer_of("adamw")
    shapes, shardings, compiled = compiled_step(mesh, adamw, accumulation_steps=2, ema=True)
    # Parameters, moments and averages come out as they go in, so that donation reuses their room.
    found, _ = compiled.output_shardings
    for (path, expected), place, leaf in zip(
        jax.tree_util.tree_leaves_with_path(shardings),
        jax.tree.leaves(found),
        jax.tree.leaves(shapes),
        strict=True,
    ):
        assert place.is_equivalent_to(expected, leaf.ndim), path
    argument_bytes = sum(
        np.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
    assert compiled.memory_analysis().alias_size_in_bytes >= argument_bytes
    # No parameter, nor its gradient, is ever whole on a device: neither all layers of a stack nor
    # the tables of the vocabulary.
    program = compiled.as_text()
    for leaf in jax.tree.leaves(shapes.trained):
        if leaf.size > 1000:
            assert f"[{','.join(map(str, leaf.shape))}]" not in program
    # What is gathered: one layer's kernels and the head over fsdp, and token ids. Activations, that
    # a partitioner without a way out would gather, have more axes.
    for kind, shape in gathered(compiled):
        assert kind == "s32" or (kind == "f32" and len(shape) == 2), (kind, shape)
    head, embedding = ("f32", (32, 128)), ("f32", (128, 32))
    assert head in gathered(compiled)
    assert embedding not in gathered(compiled)


def test_tensor_parallelism_gathers_nothing():
    mesh = sharding.make_mesh({"slice": 1, "data": 1, "fsdp": 1, "tensor": 8})
    *_, compiled = compiled_step(mesh, optax.sgd(0.1), accumulation_steps=1, ema=False)
    assert gathered(compiled) == set()
    assert "all-to-all" not in compiled.as_text()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_optimizers_steps_do_not_depend_on_the_mesh(name, tiny_config):
    optimizer = optimizer_of(name)
    mesh = sharding.make_mesh({"slice": 1, "data": 2, "fsdp": 2, "tensor": 2})
    shapes = jax.eval_shape(lambda: init_parameters(tiny_config, jax.random.key(0)))
    # The encoder and what is not in layers: the decoder's are mapped as the encoder's are.
    shapes = {name: shapes[name] for name in ("token_embedder", "encoder", "lm_head")}
    random = np.random.default_rng(0)
    parameters, *gradients = (
        jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
        for _ in range(3)
    )

    def steps(parameters, gradients):
        state = optimizer.init(parameters)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        return parameters, state

    alone = jax.device_get(jax.jit(steps)(parameters, gradients))
    specs = sharding.parameter_specs(shapes)
    places = sharding.named(mesh, specs)
    state_places = sharding.named(mesh, sharding.optimizer_specs(alone[1], shapes))
    split = jax.jit(
        steps, in_shardings=(places, [places, places]), out_shardings=(places, state_places)
    )
    there = split(parameters, gradients)
    for (path, expected), found in zip(
        jax.tree_util.tree_leaves_with_path(alone), jax.tree.leaves(there), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5, err_msg=str(path))
    moments = [leaf for leaf in jax.tree.leaves(there[1]) if leaf.ndim == 3]
    if name != "adafactor":
        assert moments
    assert not any(leaf.sharding.is_fully_replicated for leaf in moments)
