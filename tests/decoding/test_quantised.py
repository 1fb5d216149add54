"""Weights of 8 bits: their error by hand, and what it makes of answers, on a mesh too."""

import jax
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer, random_texts
from jax.sharding import PartitionSpec as P

from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.loading import decode_mesh, load_decode_model
from instructrec_jax.decoding.prepared import prepared_model
from instructrec_jax.decoding.scoring import score
from instructrec_jax.model.quantised import quantised, quantised_product
from instructrec_jax.training.checkpoint import save_model

# Largest differences of a token's log-probability, which for these weights are around -5.
TOLERANCE, MEAN_TOLERANCE = 0.25, 0.05


def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most():
    weights = np.float32([[127.0, 0.0, -6.35], [-63.4, 0.0, 0.12], [0.5, 0.0, -0.13]])
    values, scales = quantised(weights, axis=0)
    np.testing.assert_allclose(scales, [[1.0, 1.0, 0.05]], rtol=1e-6)
    np.testing.assert_array_equal(values, [[127, 0, -127], [-63, 0, 2], [0, 0, -3]])
    random = np.random.RandomState(0).standard_normal((2, 30, 20)).astype(np.float32)
    for axis in (-1, -2):
        values, scales = quantised(random, axis=axis)
        assert values.dtype == np.int8
        np.testing.assert_allclose(scales, np.abs(random).max(axis, keepdims=True) / 127, rtol=1e-6)
        assert (np.abs(values * scales - random) <= scales * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 6), (1, 1, 6)])
def test_the_product_is_off_by_half_a_step_of_each_activation_at_most(shape):
    random = np.random.RandomState(1)
    x, weights = random.standard_normal(shape), random.standard_normal((6, 4)).astype(np.float32)
    values, scales = quantised(weights, axis=-2)
    product = jax.jit(quantised_product)(x.astype(np.float32), values, scales)
    assert product.shape == (*shape[:-1], 4)
    half_steps = np.abs(x).max(-1, keepdims=True) / 127 / 2
    allowed = half_steps * np.abs(values * scales).sum(0)
    assert (np.abs(product - x @ (values * scales)) <= allowed + 1e-5).all()


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(
        folder,
        params=params,
        config=CONFIG,
        tokenizer=byte_tokenizer(sentinels=0),
        encoder_length=16,
        decoder_length=8,
    )
    return folder


def test_answers_are_nearly_those_of_floats(params, folder):
    mesh = decode_mesh("data=2,fsdp=2,tensor=2")
    loaded = load_decode_model(str(folder), mesh=mesh, dtype="int8").params
    kernels = loaded["decoder"]["layers"]["feed_forward"]["down"]
    assert kernels["kernel"].dtype == np.int8
    assert kernels["kernel_scale"].shape == (2, 1, 32)
    assert kernels["kernel"].sharding.spec == P(None, "tensor", "fsdp")
    assert kernels["kernel_scale"].sharding.spec == P(None, None, "fsdp")
    texts, targets = (random_texts(12, longest=12, seed=seed) for seed in (0, 1))
    arguments = {"batch_size": 4, "encoder_length": 16}
    floats = score(params, CONFIG, CharacterTokenizer(), texts, targets, **arguments)
    with jax.set_mesh(mesh):
        integers = score(loaded, CONFIG, CharacterTokenizer(), texts, targets, **arguments)
        model, config = prepared_model(loaded, CONFIG)
        (answer, *_) = generate(
            model, config, CharacterTokenizer(), texts[:4], max_new_tokens=4, **arguments
        )
    errors = np.concatenate(
        [
            np.subtract(ours.token_logprobs, theirs.token_logprobs)
            for ours, theirs in zip(integers, floats, strict=True)
        ]
    )
    assert np.abs(errors).max() < TOLERANCE and np.abs(errors).mean() < MEAN_TOLERANCE
    assert answer.output_tokens
