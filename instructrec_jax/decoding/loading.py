"""A model on the devices that are to decode with it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.model.quantised import channel_axis, quantised, scale_name
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.host_parameters import read_parameter
from instructrec_jax.training.model_folder import (
    LoadedModel,
    ModelFolder,
    open_model,
    read_parameters,
)
from instructrec_jax.training.sharding import (
    AXES,
    indivisible,
    make_mesh,
    named,
    parameter_specs,
    path_name,
)


def decode_mesh(text: str | None) -> Mesh | None:
    """The mesh of "data=4,tensor=2" over all devices; axes that are not named have size 1.

    ConfigError: an unknown axis, a size that is no number, or sizes that do not fit the devices.
    """
    if text is None:
        return None
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in sizes:
            known = ", ".join(AXES)
            raise ConfigError(f"--mesh={text}: no axis {axis!r}{nearest(axis, AXES)} ({known})")
        if not size.removeprefix("-").isdecimal():
            raise ConfigError(f"--mesh={text}: {axis} needs a whole number, such as {axis}=2")
        sizes[axis] = int(size)
    try:
        return make_mesh(sizes)
    except ConfigError as error:
        # That names the keys of a config.
        raise ConfigError(f"--mesh={text}: {str(error).partition(': ')[2]}") from None


def load_decode_model(path: str, *, mesh: Mesh | None, dtype: str) -> LoadedModel:
    """A model of any folder that `open_model` takes: on one device, or laid out over a mesh.

    Its parameters are kept in `dtype`; int8 is that of quantised.py.

    Raises:
      CheckpointError: nothing there, or the files are damaged.
      ConfigError: the mesh does not divide the parameters.
    """
    model = open_model(path)
    shapes = jax.eval_shape(lambda: init_parameters(model.config, jax.random.key(0)))
    if mesh is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda leaf: device, shapes)
    else:
        problems = indivisible(shapes, dict(mesh.shape))
        if problems:
            raise ConfigError(problems[0].replace("mesh.", "--mesh: "))
        places = named(mesh, parameter_specs(shapes))
    if dtype == "int8":
        return LoadedModel(**vars(model), params=_quantised_parameters(model, places))
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=place),
        shapes,
        places,
    )
    return LoadedModel(**vars(model), params=read_parameters(model, target))


def _quantised_parameters(model: ModelFolder, places: Any) -> dict[str, Any]:
    """The parameters with 8 bits where quantised.py says so; the host holds one of them in floats.

    `places` is the tree of their shardings. CheckpointError: the files are damaged.
    """
    params: dict[str, Any] = {}
    for path, place in jax.tree_util.tree_leaves_with_path(places):
        *groups, name = path_name(path).split("/")
        group = params
        for part in groups:
            group = group.setdefault(part, {})
        weights = read_parameter(model, path_name(path))
        axis = channel_axis(path_name(path))
        if axis is None:
            group[name] = _put(weights.astype(np.float32, copy=False), place)
            continue
        values, scales = quantised(weights, axis=axis)
        group[name] = _put(values, place)
        group[scale_name(name)] = _put(scales, _of_scales(place, values.ndim, axis))
    return params


def _of_scales(place: Sharding, axes: int, axis: int) -> Sharding:
    """Where scales are, of size 1 along `axis`, of a parameter with `axes` axes."""
    if not isinstance(place, NamedSharding):
        return place
    spec = [*place.spec, *[None] * (axes - len(place.spec))]
    spec[axis] = None
    return NamedSharding(place.mesh, PartitionSpec(*spec))


def _put(array: np.ndarray, place: Sharding) -> jax.Array:
    placed = jax.make_array_from_callback(array.shape, place, lambda index: array[index])
    return jax.block_until_ready(placed)
