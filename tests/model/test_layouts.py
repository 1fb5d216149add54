import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CONFIGS, fixed_parameters

from instructrec_jax.model.layouts import relayered, split_layers

PARTS = st.sampled_from(["self_attention", "feed_forward", "relative_bias", "lora"])


@st.composite
def parameters(draw):
    """Trees of the model's form, with stacks of any depth and parts of any shape."""
    tree = {"token_embedder": {"embedding": np.ones((3, 2), np.float32)}}
    for side in draw(st.sampled_from([("encoder", "decoder"), ("encoder",), ("decoder",)])):
        depth = draw(st.integers(1, 12))
        layers = {
            part: {"kernel": np.arange(depth * size, dtype=np.float32).reshape(depth, size)}
            for part, size in draw(st.dictionaries(PARTS, st.integers(1, 3), min_size=1)).items()
        }
        tree[side] = {"layers": layers, "final_norm": {"scale": np.zeros(2, np.float16)}}
    return tree


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert type(ours) is type(theirs) and ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(parameters())
def test_there_and_back(tree):
    unrolled = relayered(tree, scanned=False)
    assert_same(relayered(unrolled, scanned=True), tree)
    assert_same(relayered(tree, scanned=True), tree)
    assert_same(relayered(unrolled, scanned=False), unrolled)
    for side in tree.keys() & {"encoder", "decoder"}:
        assert "layers" not in unrolled[side]
        layers = split_layers(tree[side]["layers"])
        for number, layer in enumerate(layers):
            assert_same(unrolled[side][f"layers_{number}"], layer)


@pytest.mark.parametrize("name", ["v1_1", "umt5"])
def test_names_and_shapes_of_a_model(name):
    config, params = CONFIGS[name], fixed_parameters(CONFIGS[name])
    unrolled = relayered(params, scanned=False)
    own_bias = set() if config.shared_relative_bias else {"relative_bias"}
    assert unrolled["decoder"]["layers_2"].keys() == own_bias | {
        f"{part}{norm}"
        for part in ("self_attention", "cross_attention", "feed_forward")
        for norm in ("", "_norm")
    }
    kernel = unrolled["encoder"]["layers_1"]["self_attention"]["query"]["kernel"]
    np.testing.assert_array_equal(
        kernel, params["encoder"]["layers"]["self_attention"]["query"]["kernel"][1]
    )
    assert_same(relayered(unrolled, scanned=True), params)


def test_jax_arrays_stay_jax_arrays():
    tree = {"encoder": {"layers": {"norm": {"scale": jnp.ones((3, 2))}}}}
    unrolled = relayered(tree, scanned=False)
    assert isinstance(unrolled["encoder"]["layers_2"]["norm"]["scale"], jax.Array)
    assert isinstance(
        relayered(unrolled, scanned=True)["encoder"]["layers"]["norm"]["scale"], jax.Array
    )


def test_gaps_are_refused():
    layer = {"norm": {"scale": np.ones(2)}}
    with pytest.raises(ValueError, match=r"encoder are numbered \[0, 2\]"):
        relayered({"encoder": {"layers_0": layer, "layers_2": layer}}, scanned=True)
