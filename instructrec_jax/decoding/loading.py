"""A model on the devices that are to decode with it."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.model_folder import LoadedModel, open_model, read_parameters
from instructrec_jax.training.sharding import (
    AXES,
    indivisible,
    make_mesh,
    named,
    parameter_specs,
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
    return make_mesh(sizes)


def load_decode_model(path: str, *, mesh: Mesh | None, dtype: str) -> LoadedModel:
    """A model of any folder that `open_model` takes: on one device, or laid out over a mesh.

    Its parameters are kept in `dtype`.

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
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype), sharding=place),
        shapes,
        places,
    )
    return LoadedModel(**vars(model), params=read_parameters(model, target))
