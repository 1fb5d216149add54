"""The device mesh, and where each parameter, optimizer slot and batch row lives on it.

Mesh axes, the slowest network outermost: `slice` (groups of devices with a fast network inside,
such as TPU slices) and `data` split the batch, `fsdp` splits the batch and the parameters (ZeRO-3),
`tensor` splits heads, feed-forward and vocabulary (Megatron). The table below gives every parameter
its PartitionSpec; the stacked layer axis L in front is never split.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from instructrec_jax.errors import ConfigError
from instructrec_jax.model.layers import ACTIVATION_AXES

AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = ACTIVATION_AXES["batch"]

# First match wins; a parameter that no line matches is an error.
RULES: tuple[tuple[str, P], ...] = (
    (r"token_embedder/embedding", P("tensor", "fsdp")),
    (r".*/layers/relative_bias/embedding", P(None, None, "tensor")),
    (r".*/relative_bias/embedding", P(None, "tensor")),
    (r".*_attention/(query|key|value)/kernel", P(None, "fsdp", "tensor")),
    (r".*_attention/out/kernel", P(None, "tensor", "fsdp")),
    (r".*/feed_forward/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    (r".*/feed_forward/down/kernel", P(None, "tensor", "fsdp")),
    # Adapters follow their kernel's axes; their rank is too small to be split.
    (r".*/(query|key|value|gate|up)/lora_a", P(None, "fsdp", None)),
    (r".*/(query|key|value|gate|up)/lora_b", P(None, None, "tensor")),
    (r".*/(out|down)/lora_a", P(None, "tensor", None)),
    (r".*/(out|down)/lora_b", P(None, None, "fsdp")),
    (r".*norm/scale", P()),
    (r"lm_head/kernel", P("fsdp", "tensor")),
)


def mesh_shape(sizes: Mapping[str, int], device_count: int) -> tuple[int, ...]:
    """Sizes along AXES with -1 filled in.

    Raises:
      ConfigError: sizes that do not multiply to the number of devices.
    """
    shape = [sizes[axis] for axis in AXES]
    known = int(np.prod([size for size in shape if size != -1]))
    asked = ", ".join(f"mesh.{axis}={sizes[axis]}" for axis in AXES)
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise ConfigError(f"{asked}: sizes are positive, and at most one is -1 (all that are left)")
    if -1 in shape:
        if device_count % known:
            raise ConfigError(f"{asked}: {known} does not divide the {device_count} devices")
        shape[shape.index(-1)] = device_count // known
    elif known != device_count:
        raise ConfigError(f"{asked}: {known} devices asked for, {device_count} present")
    return tuple(shape)


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """The mesh over all devices of all processes.

    Where devices tell their slice, each index along `slice` is one of these slices.

    Raises:
      ConfigError: sizes that do not fit the devices or their slices.
    """
    shape = mesh_shape(sizes, jax.device_count())
    axis_types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in jax.devices()})
    if shape[0] == 1 or slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=axis_types)
    if shape[0] != slices:
        raise ConfigError(f"mesh.slice={shape[0]}: the devices are in {slices} slices")
    devices = mesh_utils.create_hybrid_device_mesh((1, *shape[1:]), (slices, 1, 1, 1))
    return Mesh(devices, AXES, axis_types=axis_types)


def path_name(path: tuple[Any, ...]) -> str:
    """`encoder/layers/feed_forward/up/kernel` for a tree path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def parameter_specs(parameters: Any) -> Any:
    """A PartitionSpec for each parameter, by RULES.

    Args:
      parameters: tree of arrays or ShapeDtypeStructs.

    Raises:
      ValueError: a parameter that no rule matches.
    """

    def spec(path: tuple[Any, ...], _: Any) -> P:
        name = path_name(path)
        for pattern, rule in RULES:
            if re.fullmatch(pattern, name):
                return rule
        raise ValueError(f"no sharding rule matches the parameter {name}")

    return jax.tree_util.tree_map_with_path(spec, parameters)


def indivisible(parameters: Any, mesh: Mapping[str, int]) -> list[str]:
    """A line for each parameter axis that its mesh axes do not divide.

    Args:
      parameters: tree of ShapeDtypeStructs.
      mesh: size of each mesh axis.
    """
    problems = []
    specs = jax.tree.leaves(parameter_specs(parameters), is_leaf=lambda leaf: isinstance(leaf, P))
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    for (path, leaf), spec in zip(leaves, specs, strict=True):
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh[axis]:
                problems.append(
                    f"mesh.{axis}={mesh[axis]} does not divide {size}, an axis of "
                    f"{path_name(path)} {leaf.shape}"
                )
    return problems


def optimizer_specs(optimizer_state: Any, parameters: Any) -> Any:
    """PartitionSpecs of an optimizer state: a slot takes its parameter's where the shapes agree.

    A slot belongs to the parameter whose path its own path ends with. Factored and scalar slots are
    small and stay whole on every device.

    Args:
      optimizer_state: tree of arrays or ShapeDtypeStructs.
      parameters: the parameters that it was made for.
    """
    specs = jax.tree.leaves(parameter_specs(parameters), is_leaf=lambda leaf: isinstance(leaf, P))
    known = {
        path_name(path): (leaf.shape, spec)
        for (path, leaf), spec in zip(
            jax.tree_util.tree_leaves_with_path(parameters), specs, strict=True
        )
    }

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        for start in range(len(path)):
            shape, rule = known.get(path_name(path[start:]), (None, P()))
            if shape == leaf.shape:
                return rule
        return P()

    return jax.tree_util.tree_map_with_path(spec, optimizer_state)


def named(mesh: Mesh, specs: Any) -> Any:
    """NamedShardings of a tree of PartitionSpecs."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda leaf: isinstance(leaf, P)
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over BATCH_AXES; every `tensor` shard sees the same rows."""
    return NamedSharding(mesh, P(BATCH_AXES))


def host_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """(index, count): this host reads part `index` of a global batch cut into `count` parts.

    Hosts that share a `tensor` group read the same part.

    Raises:
      ConfigError: a host's rows are not one contiguous part of the batch.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = sorted({index[0].indices(batch_size)[:2] for index in indices if index is not None})
    start, stop = rows[0][0], rows[-1][1]
    contiguous = all(left[1] == right[0] for left, right in zip(rows, rows[1:], strict=False))
    size = stop - start
    if not contiguous or batch_size % size or start % size:
        raise ConfigError("the mesh gives a host rows that are not contiguous; change mesh sizes")
    return start // size, batch_size // size


def global_batch(mesh: Mesh, local: Mapping[str, np.ndarray], batch_size: int) -> dict[str, Any]:
    """This host's rows as part of the global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, (batch_size, *rows.shape[1:]))
        for name, rows in local.items()
    }
