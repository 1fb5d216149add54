import dataclasses
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    CONFIGS,
    fixed_parameters,
    gradient_names,
    padded_batch,
    parameter_of,
    rows_of,
    transformers_results,
)

from instructrec_jax.model.config import T5Config, t5_config
from instructrec_jax.model.layers import REMAT_POLICIES
from instructrec_jax.model.stacks import Encoder
from instructrec_jax.model.t5 import T5, decoder_layers, init_parameters

CONFIG = CONFIGS["v1_1"]
GOLDENS = Path(__file__).parent / "goldens"


def outputs(config, params, batch):
    """Summed loss, and (logits, encoder states)."""
    logits, captured = T5(config).apply(
        {"params": params},
        batch,
        capture_intermediates=lambda module, _: isinstance(module, Encoder),
        mutable="intermediates",
    )
    log_probabilities = jax.nn.log_softmax(logits)
    targets = batch["decoder_target_tokens"][..., None]
    nll = -jnp.take_along_axis(log_probabilities, targets, axis=-1)[..., 0]
    encoded = captured["intermediates"]["encoder"]["__call__"][0]
    return (nll * batch["decoder_loss_weights"]).sum(), (logits, encoded)


@partial(jax.jit, static_argnames="config")
def evaluated(config, params, batch):
    """((summed loss, (logits, encoder states)), gradients)."""
    return jax.value_and_grad(lambda params: outputs(config, params, batch), has_aux=True)(params)


@partial(jax.jit, static_argnames="config")
def forward(config, params, batch):
    loss, (logits, _) = outputs(config, params, batch)
    return loss, logits


# Every test uses batches of this shape, and so the same few compiled programs.
def batch_with_empty_row(config):
    batch = padded_batch(config)
    return {name: np.concatenate([a, np.zeros_like(a[:1])]) for name, a in batch.items()}


@cache
def weights(name):
    return fixed_parameters(CONFIGS[name])


@pytest.fixture(scope="module")
def params():
    return weights("v1_1")


@pytest.fixture(scope="module")
def batch():
    return batch_with_empty_row(CONFIG)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_equal_the_goldens(name):
    config, golden = CONFIGS[name], np.load(GOLDENS / f"{name}.npz")
    batch = batch_with_empty_row(config)
    (loss, (logits, encoded)), gradients = evaluated(config, weights(name), batch)
    for found, expected in (
        (encoded[batch["encoder_segment_ids"] > 0], golden["encoded"]),
        (logits[batch["decoder_segment_ids"] > 0], golden["logits"]),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(loss, golden["loss"], atol=1e-4, rtol=1e-6)
    assert len(gradient_names(config)) == 3
    for path in gradient_names(config):
        expected = golden[f"gradient:{path}"]
        np.testing.assert_allclose(
            parameter_of(gradients, path), expected, atol=2e-5 * np.abs(expected).max(), rtol=0
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_output_equals_the_goldens(name):
    """Given the golden's tokens as inputs, the likeliest next token is the golden's at each place.

    Cached decoding of the same goldens: tests/decoding.
    """
    config, greedy = CONFIGS[name], np.load(GOLDENS / f"{name}.npz")["greedy"]
    batch = batch_with_empty_row(config)
    rows, length = greedy.shape
    batch["decoder_input_tokens"][:rows, 1 : length + 1] = greedy
    batch["decoder_segment_ids"][:rows] = 1
    (_, (logits, _)), _ = evaluated(config, weights(name), batch)
    # Up to the first eos, and with it.
    open_ = np.cumsum(np.pad(greedy[:, :-1], ((0, 0), (1, 0))) == 1, axis=1) == 0
    np.testing.assert_array_equal(np.argmax(logits, -1)[:rows, :length][open_], greedy[open_])
    assert set(greedy[~open_]) <= {0}


@pytest.mark.parametrize("name", ["mt5", "umt5"])
def test_goldens_are_what_transformers_computes(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config, golden = CONFIGS[name], np.load(GOLDENS / f"{name}.npz")
    found = transformers_results(config, weights(name), padded_batch(config), name=name)
    assert found.keys() == set(golden.files)
    for key, value in found.items():
        np.testing.assert_allclose(value, golden[key], atol=1e-4, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_head_and_scaling_are_independent(tied, scaled):
    config = dataclasses.replace(CONFIG, tied_embeddings=tied, scale_decoder_output=scaled)
    random = np.random.RandomState(0)
    states, table = random.standard_normal((2, 3, 40)), random.standard_normal((128, 40))
    params = {"token_embedder": {"embedding": table}, "lm_head": {"kernel": 2 * table.T}}
    logits = T5(config).apply(
        {"params": params}, states, method=lambda model, x: model.logits(model._scaled(x))
    )
    expected = states @ table.T * (1 if tied else 2) * (40**-0.5 if scaled else 1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["v1_0", "umt5"])
def test_cached_decoding_equals_whole_rows(name):
    config, params = CONFIGS[name], weights(name)
    batch = batch_with_empty_row(config)
    batch["decoder_segment_ids"][:] = 1
    (_, (logits, encoded)), _ = evaluated(config, params, batch)
    tokens = batch["decoder_input_tokens"]

    @jax.jit
    def decoded(params, encoded):
        apply = partial(T5(config).apply, {"params": params})
        layers = decoder_layers(params)
        start = apply(
            layers, encoded, batch["encoder_segment_ids"], tokens.shape[1], method="start_cache"
        )

        def step(cache, tokens):
            logits, cache = apply(layers, tokens, cache, method="decode_step")
            return cache, logits

        return jax.lax.scan(step, start, jnp.asarray(tokens.T))[1]

    # The empty row has nothing to attend to.
    found = jnp.swapaxes(decoded(params, encoded), 0, 1)[:-1]
    np.testing.assert_allclose(found, logits[:-1], atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["v1_0", "v1_1", "umt5"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**20), cuts=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_packed_rows_equal_rows_of_one_example(name, seed, cuts):
    config, params = CONFIGS[name], weights(name)
    random = np.random.RandomState(seed)
    lengths = [(random.randint(1, 9), random.randint(1, 7)) for _ in cuts]
    examples = [(random.randint(0, 128, s), random.randint(0, 128, t)) for s, t in lengths]
    rows = [[e for e, cut in zip(examples, cuts, strict=True) if cut == r] for r in range(3)]
    shape = {"encoder_length": 40, "decoder_length": 24}
    packed = rows_of([*rows, []], **shape)
    (packed_loss, (packed_logits, _)), packed_gradients = evaluated(config, params, packed)
    alone = rows_of([[e] for row in rows for e in row], **shape)
    (loss, (logits, _)), gradients = evaluated(config, params, alone)

    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(
        packed_logits[packed["decoder_segment_ids"] > 0],
        logits[alone["decoder_segment_ids"] > 0],
        atol=2e-5,
        rtol=0,
    )
    for ours, theirs in zip(
        jax.tree.leaves(packed_gradients), jax.tree.leaves(gradients), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("activation_dtype", ["float32", "bfloat16"])
def test_padding_changes_nothing_and_gives_finite_gradients(params, batch, activation_dtype):
    config = T5Config(**{**CONFIG.to_dict(), "activation_dtype": activation_dtype})
    (loss, (logits, _)), gradients = evaluated(config, params, batch)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))

    changed = dict(batch)
    for side in ("encoder", "decoder"):
        padding = batch[f"{side}_segment_ids"] == 0
        changed[f"{side}_input_tokens"] = np.where(padding, 77, batch[f"{side}_input_tokens"])
    (changed_loss, (changed_logits, _)), _ = evaluated(config, params, changed)
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_array_equal(changed_logits[real], logits[real])
    assert changed_loss == loss


# These weights make sharp attention. The tolerance is how far transformers' own bfloat16 is off.
@pytest.mark.parametrize(("name", "tolerance"), [("v1_1", 0.054), ("v1_0", 0.016), ("umt5", 0.052)])
def test_bfloat16_is_near_float32_and_keeps_float32_logits(name, tolerance):
    config, params = CONFIGS[name], weights(name)
    batch = batch_with_empty_row(config)
    half = dataclasses.replace(config, activation_dtype="bfloat16")
    if name == "v1_1":  # shares the programs of the other tests
        (loss, (logits, _)), gradients = evaluated(half, params, batch)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
    else:
        loss, logits = forward(half, params, batch)
    (exact_loss, (exact_logits, _)), _ = evaluated(config, params, batch)
    assert logits.dtype == jnp.float32
    real = batch["decoder_segment_ids"] > 0
    error = np.sqrt(np.mean((logits - exact_logits)[real] ** 2) / np.mean(exact_logits[real] ** 2))
    assert 0 < error < tolerance
    np.testing.assert_allclose(loss, exact_loss, rtol=5e-3)


def test_no_target_sees_a_later_one(params, batch):
    longest = 1
    (_, (logits, _)), _ = evaluated(CONFIG, params, batch)
    changed = {name: array.copy() for name, array in batch.items()}
    changed["decoder_input_tokens"][longest, 10] += 1
    (_, (changed_logits, _)), _ = evaluated(CONFIG, params, changed)
    np.testing.assert_array_equal(changed_logits[longest, :10], logits[longest, :10])
    assert np.abs(changed_logits - logits)[longest, 10:].max() > 1e-3


@pytest.mark.parametrize("name", ["v1_1", "umt5"])
def test_given_positions_count_as_places_do(name):
    config, params = CONFIGS[name], weights(name)
    batch = rows_of([[(np.arange(2, 9), np.array([1])), (np.arange(20, 25), np.array([1]))]])
    tokens, segments = batch["encoder_input_tokens"], batch["encoder_segment_ids"]
    encode = jax.jit(
        partial(T5(config).apply, {"params": params}, tokens, segments, method="encode")
    )
    by_place = encode()
    np.testing.assert_allclose(encode(batch["encoder_positions"]), by_place, atol=1e-5)
    assert np.abs(encode(batch["encoder_positions"] * 3) - by_place).max() > 1e-2


def test_remat_and_unrolling_change_memory_and_no_gradient(params, batch):
    def loss(config, params):
        encoded = T5(config).apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["encoder_segment_ids"],
            method="encode",
        )
        return jnp.sum(encoded**2)

    def saved_numbers(remat):
        config = T5Config(**{**CONFIG.to_dict(), "remat": remat})
        _, backward = jax.eval_shape(lambda p: jax.vjp(partial(loss, config), p), params)
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(backward))

    saved = {name: saved_numbers(name) for name in REMAT_POLICIES}
    assert saved["full"] < saved["projections"] < saved["dots"] < saved["none"]

    changed = T5Config(**{**CONFIG.to_dict(), "remat": "full", "scan_unroll": 3})
    expected, gradients = (
        jax.jit(jax.grad(partial(loss, config)))(params)["encoder"] for config in (CONFIG, changed)
    )
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_dropout_depends_on_its_key_alone(params, batch):
    config = T5Config(**{**CONFIG.to_dict(), "dropout_rate": 0.2})
    inputs = {"params": params}, batch["encoder_input_tokens"], batch["encoder_segment_ids"]
    encode = partial(T5(config).apply, *inputs, method="encode")

    @jax.jit
    def encoded(key):
        return encode(deterministic=False, rngs={"dropout": key})

    first, again, other = (np.asarray(encoded(jax.random.key(n))) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    # T5 drops the final states too, whole features of a row.
    assert 0.1 < np.mean(first == 0) <= 0.3
    np.testing.assert_array_equal(first == 0, np.broadcast_to(first[:, :1] == 0, first.shape))
    assert (encode() != 0).all()


def test_initial_parameters_have_the_spread_of_t5x():
    config = t5_config("tiny", vocabulary_size=1024)
    params = init_parameters(config, jax.random.key(0))
    layers = params["decoder"]["layers"]
    attention = layers["cross_attention"]
    fan_in = config.d_model**-0.5
    for kernel, expected in (
        (params["token_embedder"]["embedding"], 1.0),
        (params["lm_head"]["kernel"], fan_in),
        (attention["query"]["kernel"], fan_in * config.head_size**-0.5),
        (attention["key"]["kernel"], fan_in),
        (attention["value"]["kernel"], fan_in),
        (attention["out"]["kernel"], (config.num_heads * config.head_size) ** -0.5),
        (layers["feed_forward"]["gate"]["kernel"], fan_in),
        (layers["feed_forward"]["down"]["kernel"], config.d_ff**-0.5),
    ):
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.03)
    assert (
        np.abs(layers["cross_attention"]["key"]["kernel"][0]).sum()
        != np.abs(layers["cross_attention"]["key"]["kernel"][1]).sum()
    )
    np.testing.assert_array_equal(layers["feed_forward_norm"]["scale"], 1.0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert type(params) is dict
