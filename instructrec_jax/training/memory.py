"""Memory that a train step takes on each device: predicted, and as XLA has planned it.

What a step is given stays for the whole step: parameters, optimizer state, averages and the batch,
each divided over the devices as its sharding says. On top come, for a while:

    gradients     of the trained parameters, float32; twice where micro-batches add them up
    activations   what the backward pass finds saved, for the rows a of one micro-batch on a device
    working       what one layer's backward pass makes besides, or that of the logits, if larger

The activations are those that JAX saves for the derivative of the summed loss (the leaves of its
vjp), traced without memory for a model of the size that one device has of it: heads, feed-forward
and vocabulary divided over `tensor`. So they follow the remat policy, the loss chunk, adapters,
frozen parameters and dropout as they are computed. With "full" that is a B T D a layer; the layers
are computed again, one at a time, so what one layer saves under "none" is working memory.

The update of the parameters comes when activations are gone. It takes the gradients, updates of
their size and the new optimizer state, as nothing is written before all of it is known to be
finite, and, for an optimizer with products of matrices, as Muon, what those read and give and twice
what their loops carry, of all parameters at a time: XLA fuses no products.

XLA begins with updates before the last gradient is there, and computes some of what they are made
of twice. So that the sum is no less than its plans, the backward pass has the gradients and a
quarter of the optimizer state once more, the update half the gradients: figures that were fitted to
plans of four optimizers on four meshes. The peak is the larger of the two. Processors (CPUs)
multiply no bfloat16: there a layer's working memory is in float32. docs/training.md has the plans.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import stages
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jax.sharding import Mesh

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5, init_parameters
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import Freezing, split
from instructrec_jax.training.step import StepSettings, TrainState, summed_loss

# What a step reads of a batch; XLA drops the rest.
_FEATURES = {
    "encoder": ("input_tokens", "segment_ids"),
    "decoder": ("input_tokens", "target_tokens", "segment_ids", "positions", "loss_weights"),
}
_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    parameters: int
    optimizer: int
    averaged: int
    batch: int
    gradients: int
    activations: int
    working: int
    update: int
    overlap: int

    @property
    def arguments(self) -> int:
        """What stays."""
        return self.parameters + self.optimizer + self.averaged + self.batch

    @property
    def temporary(self) -> int:
        """The most that comes on top of it."""
        backward = self.gradients + self.activations + self.working
        return max(backward + self.overlap, self.update + self.gradients // 2)


def bytes_per_device(tree: Any) -> int:
    """Bytes that a tree of ShapeDtypeStructs with shardings takes on each device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def batch_shapes(
    mesh: Mesh, *, rows: int, encoder_length: int, decoder_length: int, tasks: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """The features that a step reads, each [rows, length], of a global batch of `rows`."""
    place = sharding.batch_sharding(mesh)
    lengths = {"encoder": encoder_length, "decoder": decoder_length}
    names = [(side, name) for side, of_side in _FEATURES.items() for name in of_side]
    names += [("decoder", "task_ids")] * tasks
    shapes = {
        f"{side}_{name}": jax.ShapeDtypeStruct(
            (rows, lengths[side]),
            jnp.float32 if name == "loss_weights" else jnp.int32,
            sharding=place,
        )
        for side, name in names
    }
    shapes["stop_votes"] = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=place)
    return shapes


def predicted_memory(
    shapes: TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    *,
    model: T5Config,
    optimizer: optax.GradientTransformation,
    settings: StepSettings,
    freezing: Freezing,
    mesh: Mesh,
) -> Memory:
    """What a step of these shapes takes; nothing is allocated or compiled.

    Args:
      shapes: the state, of ShapeDtypeStructs with shardings.
      batch: of `batch_shapes`.
      model: the whole model's.
      optimizer: of the trained parameters.
      settings: of the step.
      freezing: what is not trained.
      mesh: of the run.
    """
    saved = partial(_saved, batch=batch, settings=settings, freezing=freezing, mesh=mesh)
    gradients = bytes_per_device(shapes.trained)
    state = bytes_per_device(shapes.optimizer_state)
    wide = dataclasses.replace(model, activation_dtype="float32") if _widens(mesh) else model
    counters = dataclasses.replace(shapes, trained={}, frozen={}, optimizer_state={}, averaged={})
    return Memory(
        parameters=bytes_per_device((shapes.trained, shapes.frozen)),
        optimizer=state,
        averaged=bytes_per_device(shapes.averaged),
        batch=bytes_per_device((batch, counters)),
        gradients=gradients * (2 if settings.accumulation_steps > 1 else 1),
        activations=saved(model),
        working=max(_of_a_layer(saved, wide), _of_logits(model, batch, settings, mesh))
        + _gathered(shapes, model, mesh),
        update=2 * gradients + state + _of_products(optimizer, shapes),
        overlap=gradients + state // 4,
    )


def planned_memory(
    step: stages.Wrapped, shapes: TrainState, batch: dict[str, Any], mesh: Mesh
) -> tuple[int, int, int]:
    """Argument, temporary and output bytes on each device of the step as XLA compiles it.

    Outputs lie where the arguments lay, but for the figures. Compiled for the devices that are
    there: a plan for simulated ones keeps bfloat16 products in float32.
    """
    with jax.set_mesh(mesh):
        plan: Any = step.lower(shapes, batch).compile().memory_analysis()
    return (
        plan.argument_size_in_bytes,
        plan.temp_size_in_bytes,
        plan.output_size_in_bytes - plan.alias_size_in_bytes,
    )


def _rows(batch: dict[str, jax.ShapeDtypeStruct], settings: StepSettings, mesh: Mesh) -> int:
    """Rows of a micro-batch on a device."""
    shards = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    return batch["stop_votes"].shape[0] // (settings.accumulation_steps * shards)


def _saved(
    model: T5Config,
    *,
    batch: dict[str, jax.ShapeDtypeStruct],
    settings: StepSettings,
    freezing: Freezing,
    mesh: Mesh,
) -> int:
    """Bytes that the backward pass of a micro-batch finds saved on each device."""
    tensor, fsdp, rows = mesh.shape["tensor"], mesh.shape["fsdp"], _rows(batch, settings, mesh)
    part = dataclasses.replace(
        model,
        num_heads=model.num_heads // tensor,
        d_ff=model.d_ff // tensor,
        vocabulary_size=model.vocabulary_size // tensor,
    )
    local = {
        name: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in batch.items()
    }
    trained, frozen = jax.eval_shape(
        lambda: split(init_parameters(part, jax.random.key(0)), freezing)
    )

    def backward(trained: Any, frozen: Any, batch: Any) -> Any:
        key = jax.random.key(0) if model.has_dropout else None
        loss = partial(
            summed_loss, model=T5(part), settings=settings, dropout_key=key, task_count=0
        )
        return jax.vjp(lambda trained: loss(trained, frozen, batch)[0], trained)[1]

    shapes = {leaf.shape for leaf in jax.tree.leaves((trained, frozen))}
    total = 0
    for leaf in jax.tree.leaves(jax.eval_shape(backward, trained, frozen, local)):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.shape not in shapes:
            total += size
        elif leaf.dtype != jnp.float32:
            # A parameter in the activations' type, cast where it lies. In float32 it is itself.
            total += size // fsdp
    return total


def _of_a_layer(saved: Callable[[T5Config], int], model: T5Config) -> int:
    """Bytes that one layer saves without remat, of the encoder or of the decoder."""
    single = dataclasses.replace(model, remat="none", num_encoder_layers=1, num_decoder_layers=1)
    deeper = (
        dataclasses.replace(single, num_encoder_layers=2),
        dataclasses.replace(single, num_decoder_layers=2),
    )
    return max(saved(config) for config in deeper) - saved(single)


def _of_logits(
    model: T5Config, batch: dict[str, jax.ShapeDtypeStruct], settings: StepSettings, mesh: Mesh
) -> int:
    """Bytes of a chunk's logits: their gradient, and themselves where they are made again."""
    length = batch["decoder_target_tokens"].shape[1]
    chunked = 0 < settings.loss_chunk < length
    places = settings.loss_chunk if chunked else length
    vocabulary = model.vocabulary_size // mesh.shape["tensor"]
    copies = 3 if chunked else 1
    return copies * _FLOAT32 * _rows(batch, settings, mesh) * places * vocabulary


def _gathered(shapes: TrainState, model: T5Config, mesh: Mesh) -> int:
    """Bytes of a layer's kernels, or the head's, put together over `fsdp`, and their gradient."""
    if mesh.shape["fsdp"] == 1:
        return 0
    sizes = {"encoder/layers": 0, "decoder/layers": 0, "head": 0}
    head = "token_embedder/embedding" if model.tied_embeddings else "lm_head/kernel"
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.parameters):
        name = sharding.path_name(path)
        stack = "/".join(name.split("/")[:2])
        if stack in sizes:
            sizes[stack] += math.prod(leaf.shape[1:])
        elif name == head:
            sizes["head"] = math.prod(leaf.shape)
    held = "float32" if _widens(mesh) else model.activation_dtype
    itemsize = jnp.dtype(held).itemsize + _FLOAT32
    return max(sizes.values()) // mesh.shape["tensor"] * itemsize


def _widens(mesh: Mesh) -> bool:
    """Whether the devices multiply float32 alone."""
    return mesh.devices.flat[0].platform == "cpu"


def _of_products(optimizer: optax.GradientTransformation, shapes: TrainState) -> int:
    """Bytes that an update's products of matrices take, divided as the parameters are."""
    state = shapes.optimizer_state
    traced = jax.make_jaxpr(optimizer.update)(shapes.trained, state, shapes.trained)
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.trained))
    return _product_bytes(traced.jaxpr) * bytes_per_device(shapes.trained) // max(whole, 1)


def _product_bytes(jaxpr: Jaxpr) -> int:
    """Bytes that products read and give; a loop with products counts once, and what it carries."""
    variables: set[Var] = set()
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            variables.update(v for v in equation.invars if isinstance(v, Var))
            variables.update(equation.outvars)
        inner = [
            part.jaxpr if isinstance(part, ClosedJaxpr) else part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(part, ClosedJaxpr | Jaxpr)
        ]
        of_inner = sum(map(_product_bytes, inner))
        total += of_inner
        if of_inner and equation.primitive.name in ("scan", "while"):
            total += 2 * sum(_bytes(variable) for variable in equation.outvars)
    return total + sum(map(_bytes, variables))


def _bytes(variable: Any) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize
