import jax
import jax.numpy as jnp
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer, random_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.decoding.generate import generate_several
from instructrec_jax.decoding.sampling import (
    SamplingSettings,
    draw,
    kept_logits,
    record_hash,
    row_key,
)

LOGITS = np.random.RandomState(0).normal(0.0, 3.0, (4, 50)).astype(np.float32)


def warped(temperature, top_k, top_p, min_p):
    """Logits by transformers, in the order of its `generate`."""
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as processors

    chain = [processors.TemperatureLogitsWarper(temperature)]
    if top_k is not None:
        chain.append(processors.TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1.0:
        chain.append(processors.TopPLogitsWarper(top_p))
    if min_p is not None:
        chain.append(processors.MinPLogitsWarper(min_p))
    scores = torch.from_numpy(LOGITS.copy())
    for processor in chain:
        scores = processor(None, scores)
    return scores.numpy()


@settings(max_examples=25, deadline=None)
@given(
    temperature=st.floats(0.2, 3.0),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.05, 1.0),
    min_p=st.none() | st.floats(0.0, 0.5),
)
def test_kept_tokens_and_their_probabilities_are_those_of_transformers(
    temperature, top_k, top_p, min_p
):
    expected = warped(temperature, top_k, top_p, min_p)
    found = np.asarray(kept_logits(SamplingSettings(temperature, top_k, top_p, min_p), LOGITS))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(jax.nn.softmax(found), jax.nn.softmax(expected), rtol=1e-5)


def test_equal_logits_are_kept_together_and_ruled_out_ones_never_are():
    logits = np.array([[1.0, 1.0, 1.0, 0.0, -np.inf]], np.float32)
    found = np.asarray(kept_logits(SamplingSettings(top_k=2), logits))
    assert np.isfinite(found).tolist() == [[True, True, True, False, False]]
    everything = np.asarray(kept_logits(SamplingSettings(top_p=1.0), logits))
    assert np.isfinite(everything).tolist() == [[True, True, True, True, False]]


def test_the_drawn_token_is_the_gumbel_argmax_of_the_rows_own_key():
    seeds = np.array([[record_hash("a"), 0], [record_hash("b"), 0], [9, 1], [9, 2]], np.uint32)
    places = np.array([0, 5, 2, 2], np.int32)
    chosen = np.asarray(draw(SamplingSettings(0.7, top_k=20, seed=3), LOGITS, seeds, places))
    for row, (seed, place) in enumerate(zip(seeds, places, strict=True)):
        key = jax.random.fold_in(jax.random.key(3), seed[0])
        key = jax.random.fold_in(jax.random.fold_in(key, seed[1]), place)
        assert (jax.random.key_data(key) == jax.random.key_data(row_key(3, seed, place))).all()
        # Gumbel noise is -log(-log(u)) of uniform numbers u.
        uniform = jax.random.uniform(key, (50,), minval=np.finfo(np.float32).tiny)
        likely = np.sort(LOGITS[row])[-20] <= LOGITS[row]
        noisy = np.where(likely, LOGITS[row] / 0.7, -np.inf) - np.log(-np.log(uniform))
        assert chosen[row] == noisy.argmax()
    assert record_hash(1) != record_hash("1")


def test_each_row_draws_noise_of_its_own():
    # All rows of an array of temperatures drew the same noise in another library.
    flat = jnp.zeros((64, 128))
    seeds = np.stack([np.arange(64), np.zeros(64)], axis=1).astype(np.uint32)
    chosen = np.asarray(draw(SamplingSettings(), flat, seeds, np.zeros(64, np.int32)))
    assert len(set(chosen.tolist())) > 32


def sampled(params, texts, ids, *, batch_size=4, num_outputs=1, **options):
    answers = generate_several(
        params,
        CONFIG,
        CharacterTokenizer(),
        texts,
        ids=ids,
        max_new_tokens=8,
        batch_size=batch_size,
        encoder_length=32,
        sampling=SamplingSettings(1.5, top_k=60, top_p=0.95, num_outputs=num_outputs, **options),
    )
    return [[generation.output_tokens for generation in outputs] for outputs in answers]


def test_answers_depend_on_seed_and_id_alone(params):
    texts = random_texts(7, longest=15)
    ids = [f"record {place}" for place in range(7)]
    expected = sampled(params, texts, ids, num_outputs=3)
    assert all(len({tuple(tokens) for tokens in outputs}) == 3 for outputs in expected)
    order = np.random.RandomState(1).permutation(7)
    shuffled = sampled(
        params, [texts[n] for n in order], [ids[n] for n in order], num_outputs=3, batch_size=2
    )
    assert [shuffled[place] for place in np.argsort(order)] == expected
    # The first of several outputs is the only one of one.
    assert sampled(params, texts[:3], ids[:3]) == [outputs[:1] for outputs in expected[:3]]
    assert sampled(params, texts[:3], ids[:3], seed=1) != sampled(params, texts[:3], ids[:3])
    assert sampled(params, texts[:1], ["another"]) != [expected[0][:1]]
