import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from instructrec_jax.errors import ConfigError
from instructrec_jax.model.config import t5_config
from instructrec_jax.model.lora import LoraConfig
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import Freezing, split
from instructrec_jax.training.optimizer import make_optimizer


def sizes(data=1, fsdp=1, tensor=1, slice=1):
    return {"slice": slice, "data": data, "fsdp": fsdp, "tensor": tensor}


def shapes_of(config):
    return jax.eval_shape(lambda: init_parameters(config, jax.random.key(0)))


def test_minus_one_takes_what_is_left():
    assert sharding.mesh_shape(sizes(data=-1, tensor=2), 8) == (1, 4, 1, 2)
    assert sharding.mesh_shape(sizes(2, 2, 2), 8) == (1, 2, 2, 2)


@pytest.mark.parametrize("wrong", [sizes(3), sizes(-1, 3), sizes(-1, -1), sizes(0, 8), sizes(16)])
def test_sizes_that_do_not_fit_the_devices_are_refused(wrong):
    with pytest.raises(ConfigError, match="mesh.data="):
        sharding.mesh_shape(wrong, 8)


def test_every_parameter_of_the_largest_model_is_covered_and_split():
    shapes = shapes_of(t5_config("t5_1_1_xxl", vocabulary_size=32_128))
    specs = sharding.parameter_specs(shapes)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    flat_specs = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P))
    for (path, leaf), spec in zip(leaves, flat_specs, strict=True):
        if leaf.size > 10**6:
            assert {"fsdp", "tensor"} <= set(spec), sharding.path_name(path)
    assert sharding.indivisible(shapes, sizes(1, 8, 8)) == []


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="no sharding rule matches the parameter encoder/new"):
        sharding.parameter_specs({"encoder": {"new": jnp.zeros(2)}})


def test_axes_that_do_not_divide_are_named(tiny_config):
    problems = sharding.indivisible(shapes_of(tiny_config), sizes(tensor=3))
    assert any("mesh.tensor=3 does not divide 32" in problem for problem in problems)
    assert any("feed_forward/up/kernel" in problem for problem in problems)


def test_adapters_and_biases_of_layers_are_split_like_the_kernels_beside_them(tiny_config):
    lora = LoraConfig(rank=3, alpha=1.0)
    config = dataclasses.replace(tiny_config, lora=lora, shared_relative_bias=False)
    specs = {
        sharding.path_name(path): tuple(spec)
        for path, spec in jax.tree_util.tree_leaves_with_path(
            sharding.parameter_specs(shapes_of(config)), is_leaf=lambda leaf: isinstance(leaf, P)
        )
    }
    for path in config.adapted_projections():
        _, into, out = specs[f"{path}/kernel"]
        assert specs[f"{path}/lora_a"] == (None, into, None)
        assert specs[f"{path}/lora_b"] == (None, None, out)
    assert specs["encoder/layers/relative_bias/embedding"] == (None, None, "tensor")


@pytest.mark.parametrize("frozen", ["", "encoder", "all but adapters"])
@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_moments_are_split_like_their_parameters(name, frozen, tiny_config):
    lora = LoraConfig(rank=2, alpha=1.0) if frozen == "all but adapters" else None
    patterns = ("encoder/.*",) if frozen == "encoder" else ()
    freezing = Freezing(patterns=patterns, adapters_only=lora is not None)
    whole = shapes_of(dataclasses.replace(tiny_config, lora=lora))
    shapes = jax.eval_shape(lambda tree: split(tree, freezing)[0], whole)
    options = {"momentum": 0.9} if name == "adafactor" else {}
    optimizer = make_optimizer(
        name=name,
        options=options,
        schedule=optax.constant_schedule(1.0),
        clip_norm=1.0,
        weight_decay=0.1,
        decay=(".*kernel",),
    )
    state = jax.eval_shape(optimizer.init, shapes)
    specs = sharding.optimizer_specs(state, shapes)
    expected = {leaf.shape: set() for leaf in jax.tree.leaves(shapes)}
    parameter_specs = jax.tree.leaves(
        sharding.parameter_specs(shapes), is_leaf=lambda leaf: isinstance(leaf, P)
    )
    for leaf, spec in zip(jax.tree.leaves(shapes), parameter_specs, strict=True):
        expected[leaf.shape].add(spec)
    found = {}
    flat = jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, P))
    for leaf, spec in zip(jax.tree.leaves(state), flat, strict=True):
        found.setdefault(leaf.shape, set()).add(spec)
    for shape, of_shape in expected.items():
        assert found[shape] >= of_shape, shape
    assert found[()] == {P()}


def test_batch_rows_reach_the_devices_in_order():
    mesh = sharding.make_mesh(sizes(2, 2, 2))
    rows = np.arange(8 * 3).reshape(8, 3)
    array = sharding.global_batch(mesh, {"x": rows}, 8)["x"]
    np.testing.assert_array_equal(array, rows)
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}
    assert sharding.host_rows(mesh, 8) == (0, 1)
