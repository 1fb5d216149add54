import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CONFIGS, fixed_parameters, padded_batch

from instructrec_jax.errors import ConfigError
from instructrec_jax.model.config import T5Config, t5_config
from instructrec_jax.model.layers import Projection
from instructrec_jax.model.layouts import relayered
from instructrec_jax.model.lora import (
    LoraConfig,
    is_adapter,
    merge_adapters,
    projection_paths,
)
from instructrec_jax.model.t5 import T5, decoder_layers, init_parameters

BASE = CONFIGS["umt5"]
LORA = LoraConfig(
    rank=2, alpha=6.0, dropout=0.5, targets=r"encoder/.*/(query|up)|decoder/.*/(value|out|down)"
)
ADAPTED = dataclasses.replace(BASE, lora=LORA)


def shapes_of(config):
    """Shapes of all parameters by name."""
    tree = jax.eval_shape(partial(init_parameters, config), jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }


def with_adapters(params, *, of_b):
    """`params` with adapters at LORA's targets; lora_b normal times `of_b`."""
    random = np.random.RandomState(7)
    params = jax.tree.map(np.array, params)
    for path in ADAPTED.adapted_projections():
        module = params
        for key in path.split("/"):
            module = module[key]
        depth, into, out = module["kernel"].shape
        module["lora_a"] = random.standard_normal((depth, into, LORA.rank)).astype(np.float32)
        b = random.standard_normal((depth, LORA.rank, out)).astype(np.float32)
        module["lora_b"] = 0.1 * of_b * b
    return params


@pytest.fixture(scope="module")
def base():
    return fixed_parameters(BASE)


@pytest.fixture(scope="module")
def batch():
    return padded_batch(BASE)


@partial(jax.jit, static_argnames="config")
def logits(config, params, batch, key=None):
    if key is None:
        return T5(config).apply({"params": params}, batch)
    return T5(config).apply({"params": params}, batch, deterministic=False, rngs={"dropout": key})


def test_a_projection_by_hand():
    random = np.random.RandomState(0)
    lora = LoraConfig(rank=2, alpha=3.0, targets=".*")
    x, kernel, a, b = (random.standard_normal(s) for s in ((5, 4), (4, 3), (4, 2), (2, 3)))
    projection = Projection((4, 3), jax.nn.initializers.normal(), jnp.dtype("float32"), lora)
    params = {"kernel": kernel, "lora_a": a, "lora_b": b}
    found = projection.apply({"params": params}, x, deterministic=True)
    np.testing.assert_allclose(found, x @ kernel + x @ a @ b * 1.5, rtol=1e-5)
    merged = merge_adapters(params, lora)
    assert merged.keys() == {"kernel"}
    np.testing.assert_allclose(merged["kernel"], kernel + a @ b * 1.5, rtol=1e-6)


def test_a_fresh_projection_computes_what_its_kernel_does():
    lora = LoraConfig(rank=32, alpha=3.0, targets=".*")
    projection = Projection((64, 48), jax.nn.initializers.normal(), jnp.dtype("float32"), lora)
    x = jnp.ones((5, 64))
    params = projection.init(jax.random.key(0), x, deterministic=True)["params"]
    assert not np.any(params["lora_b"])
    np.testing.assert_allclose(params["lora_a"].std(), 64**-0.5, rtol=0.1)
    found = projection.apply({"params": params}, x, deterministic=True)
    np.testing.assert_array_equal(found, x @ params["kernel"])


def test_adapters_are_added_beside_the_base_models_parameters():
    plain, adapted = shapes_of(BASE), shapes_of(ADAPTED)
    added = {name: shape for name, shape in adapted.items() if name not in plain}
    assert plain.items() <= adapted.items()
    assert not any(map(is_adapter, plain)) and all(map(is_adapter, added))
    assert added["encoder/layers/self_attention/query/lora_a"] == (2, 40, 2)
    assert added["encoder/layers/self_attention/query/lora_b"] == (2, 2, 24)
    assert added["decoder/layers/feed_forward/down/lora_a"] == (3, 40, 2)
    paths = ADAPTED.adapted_projections()
    assert added.keys() == {f"{path}/lora_{letter}" for path in paths for letter in "ab"}
    assert len(paths) == 7


@pytest.mark.parametrize("gated", [True, False])
def test_projection_paths_are_all_that_can_be_adapted(gated):
    everything = dataclasses.replace(
        BASE, gated_feed_forward=gated, lora=LoraConfig(rank=1, alpha=1.0)
    )
    modules = {n.rpartition("/")[0] for n in shapes_of(everything) if n.endswith("lora_a")}
    assert modules == set(projection_paths(gated_feed_forward=gated))
    assert modules == set(everything.adapted_projections())


def test_adapters_of_which_b_is_zero_change_nothing(base, batch):
    fresh = with_adapters(base, of_b=0)
    np.testing.assert_array_equal(logits(ADAPTED, fresh, batch), logits(BASE, base, batch))
    np.testing.assert_array_equal(
        logits(ADAPTED, fresh, batch, jax.random.key(0)), logits(BASE, base, batch)
    )


def test_merged_parameters_compute_the_same(base, batch):
    adapted = with_adapters(base, of_b=1)
    expected = logits(ADAPTED, adapted, batch)
    assert np.abs(expected - logits(BASE, base, batch)).max() > 0.1
    for merged in (
        merge_adapters(adapted, LORA),
        merge_adapters(jax.tree.map(jnp.asarray, adapted), LORA),
        relayered(merge_adapters(relayered(adapted, scanned=False), LORA), scanned=True),
    ):
        assert jax.tree.structure(merged) == jax.tree.structure(base)
        np.testing.assert_allclose(logits(BASE, merged, batch), expected, atol=1e-3)
    kernel = adapted["token_embedder"]["embedding"]
    assert merge_adapters(adapted, LORA)["token_embedder"]["embedding"] is kernel


def test_decoding_takes_merged_parameters_alone(base):
    with pytest.raises(ValueError, match="merge them into the kernels first"):
        decoder_layers(with_adapters(base, of_b=1))
    assert len(decoder_layers(base)) == BASE.num_decoder_layers


def test_merging_keeps_a_kernels_type(base):
    adapted = with_adapters(base, of_b=1)
    query = adapted["encoder"]["layers"]["self_attention"]["query"]
    exact = query["kernel"].astype(np.float16) + LORA.scale * query["lora_a"] @ query["lora_b"]
    query["kernel"] = query["kernel"].astype(np.float16)
    merged = merge_adapters(adapted, LORA)["encoder"]["layers"]["self_attention"]["query"]
    assert merged["kernel"].dtype == np.float16
    np.testing.assert_allclose(merged["kernel"], exact, rtol=1e-3, atol=1e-3)


def test_dropout_is_on_the_adapters_alone(base, batch):
    assert ADAPTED.has_dropout and not BASE.has_dropout
    adapted = with_adapters(base, of_b=1)
    first, again, other = (logits(ADAPTED, adapted, batch, jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_config_round_trip_through_json():
    fields = json.loads(json.dumps(ADAPTED.to_dict()))
    assert fields["lora"] == dataclasses.asdict(LORA)
    assert T5Config.from_dict(fields) == ADAPTED
    assert hash(T5Config.from_dict(fields)) == hash(ADAPTED)


@pytest.mark.parametrize(
    ("targets", "count"),
    [(r".*_attention/.*", 12), (r".*_attention/(query|value)", 6), ("decoder/.*", 11)],
)
def test_targets_choose_projections(targets, count):
    config = dataclasses.replace(BASE, lora=LoraConfig(rank=1, alpha=1.0, targets=targets))
    assert len(config.adapted_projections()) == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "encoder/self_attention/query"}, "known: encoder/layers/self_attention/query"),
        ({"targets": "(query"}, "is not a regex"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("inf")}, "alpha must be positive and finite"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"rang": 3}, "rang"),
    ],
)
def test_bad_value(fields, message):
    lora = {"rank": 4, "alpha": 8.0, **fields}
    with pytest.raises(ConfigError, match=message):
        t5_config("tiny", vocabulary_size=256, lora=lora)
