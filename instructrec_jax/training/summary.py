"""A run in words before its first step: model, mesh, memory a device, data."""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.lora import is_adapter
from instructrec_jax.training.memory import Memory, bytes_per_device
from instructrec_jax.training.preparation import RunData
from instructrec_jax.training.sharding import path_name
from instructrec_jax.training.step import TrainState


def run_summary(
    shapes: TrainState, *, name: str, model: T5Config, mesh: Mesh, data: RunData
) -> str:
    """A few lines: parameters, mesh, memory and packing."""
    trained, frozen = _count(shapes.trained), _count(shapes.frozen)
    parameters = bytes_per_device(shapes.parameters)
    gradients = bytes_per_device(shapes.trained)
    optimizer = bytes_per_device(shapes.optimizer_state)
    packing = data.training.statistics(0)
    # More blocks than one: the number of rows is reckoned from the first.
    about = "about " if data.training.block_count(0) > 1 else ""
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    kind = jax.devices()[0].device_kind
    lines = [
        f"model {name}: {_parameters(trained, frozen, model)}, vocabulary "
        f"{model.vocabulary_size:,}, activations in {model.activation_dtype}",
        f"mesh {axes} on {mesh.size} {kind} device(s), {jax.process_count()} process(es)",
        f"memory a device: parameters {_size(parameters)}, gradients {_size(gradients)}, "
        f"optimizer {_size(optimizer)}; activations and updates come on top",
        f"data: {packing['examples']:,} examples in {about}{packing['rows']:,} packed rows "
        f"an epoch ({packing['examples_per_row']:.1f} a row); filled: encoder "
        f"{packing['encoder_fill']:.1%}, decoder {packing['decoder_fill']:.1%}",
    ]
    cache = data.training_cache
    lines += [f"dropped: {n:,} examples, {reason}" for reason, n in cache.dropped.items() if n]
    if cache.truncated:
        lines.append(f"truncated: the inputs of {cache.truncated:,} examples")
    if cache.demonstrations_left_out:
        lines.append(f"left out: {cache.demonstrations_left_out:,} demonstrations had no room")
    return "\n".join(lines)


def memory_summary(predicted: Memory, planned: tuple[int, int, int]) -> str:
    """The parts of a step's memory, and their sums beside those of XLA's plan.

    Args:
      predicted: of `predicted_memory`.
      planned: of `planned_memory`.
    """
    parts = {
        "parameters": predicted.parameters,
        "optimizer state": predicted.optimizer,
        "averages": predicted.averaged,
        "batch": predicted.batch,
        "gradients": predicted.gradients,
        "activations kept": predicted.activations,
        "working memory": predicted.working,
        "update": predicted.update,
        "overlap": predicted.overlap,
    }
    arguments, temporary, outputs = planned
    rows = [
        ("", "predicted", "XLA's plan here"),
        ("what stays", _size(predicted.arguments), _size(arguments)),
        ("on top, at most", _size(predicted.temporary), _size(temporary)),
        ("new outputs", "", _size(outputs)),
        (
            "together",
            _size(predicted.arguments + predicted.temporary),
            _size(arguments + temporary + outputs),
        ),
    ]
    table = "\n".join(f"  {name:<18}{left:>12}{right:>18}" for name, left, right in rows)
    named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    return f"memory of a step a device: {named}\n{table}"


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _parameters(trained: int, frozen: int, model: T5Config) -> str:
    whole = f"{trained + frozen:,} parameters"
    if not frozen:
        return whole
    what = "trained" if model.lora is None else "of adapters trained"
    return f"{whole} ({trained:,} {what}, {frozen:,} frozen)"


def parameter_table(shapes: TrainState) -> str:
    """One line a parameter: name, shape, whether it is trained, how it is split, bytes a device."""
    rows = [("parameter", "shape", "", "split over", "a device")]
    frozen = {path for path, _ in jax.tree_util.tree_leaves_with_path(shapes.frozen)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.parameters):
        name = path_name(path)
        state = "frozen" if path in frozen else "adapter" if is_adapter(name) else "trained"
        split = ", ".join("-" if axis is None else str(axis) for axis in leaf.sharding.spec)
        rows.append((name, str(leaf.shape), state, split or "-", _size(bytes_per_device(leaf))))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"
