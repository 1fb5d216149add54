import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.training.loss import normaliser, summed_nll

B, T, D, V = 3, 7, 5, 11


@pytest.fixture
def packed():
    """Hidden states, a head and a batch of two, one and no sequences a row."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(B, T, D)).astype(np.float32)
    kernel = random.normal(size=(D, V)).astype(np.float32)
    segments = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0] * 7], np.int32)
    positions = np.array([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6], [0] * 7], np.int32)
    batch = {
        "decoder_target_tokens": random.integers(0, V, size=(B, T)).astype(np.int32),
        "decoder_segment_ids": segments,
        "decoder_positions": positions,
        "decoder_loss_weights": (segments > 0).astype(np.float32),
        "decoder_task_ids": np.where(segments == 2, 3, 1).astype(np.int32),
    }
    return hidden, kernel, batch


def by_hand(hidden, kernel, batch, *, label_smoothing=0.0, z_loss=0.0):
    """(loss, nll) token by token in float64."""
    loss = nll = 0.0
    for row in range(B):
        for place in range(T):
            if not batch["decoder_loss_weights"][row, place]:
                continue
            logits = hidden[row, place].astype(np.float64) @ kernel
            log_z = np.log(np.exp(logits).sum())
            log_p = logits - log_z
            token_nll = -log_p[batch["decoder_target_tokens"][row, place]]
            nll += token_nll
            loss += (1 - label_smoothing) * token_nll - label_smoothing * log_p.mean()
            loss += z_loss * log_z**2
    return loss, nll


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 100])
@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.01)])
def test_summed_nll_is_the_sum_over_target_tokens(packed, chunk, label_smoothing, z_loss):
    hidden, kernel, batch = packed
    loss, sums = summed_nll(
        lambda states: states @ kernel,
        jnp.asarray(hidden),
        batch,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        chunk=chunk,
        task_count=4,
    )
    expected_loss, expected_nll = by_hand(
        hidden, kernel, batch, label_smoothing=label_smoothing, z_loss=z_loss
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(sums["nll"], expected_nll, rtol=1e-5)
    assert (sums["tokens"], sums["sequences"]) == (12, 3)
    # The second sequence of the first row is of task 3, the others of task 1.
    assert sums["task_tokens"].tolist() == [0, 10, 0, 2]
    assert sums["task_sequences"].tolist() == [0, 2, 0, 1]
    of_third = {**batch, "decoder_loss_weights": batch["decoder_task_ids"] == 3}
    _, nll = by_hand(hidden, kernel, of_third)
    np.testing.assert_allclose(sums["task_nll"], [0, expected_nll - nll, 0, nll], rtol=1e-5)


def test_gradient_does_not_depend_on_chunks(packed):
    hidden, kernel, batch = packed

    def loss(kernel, chunk):
        return summed_nll(
            lambda states: states @ kernel,
            jnp.asarray(hidden),
            batch,
            label_smoothing=0.1,
            z_loss=0.01,
            chunk=chunk,
        )[0]

    whole, in_chunks = (jax.grad(loss)(jnp.asarray(kernel), chunk) for chunk in (0, 2))
    np.testing.assert_allclose(in_chunks, whole, rtol=1e-4, atol=1e-5)


def test_correct_counts_the_most_likely_tokens():
    logits = jnp.asarray([[[0.0, 2.0], [3.0, 1.0]]])
    ones = jnp.ones((1, 2), jnp.int32)
    batch = {
        "decoder_target_tokens": ones,
        "decoder_segment_ids": ones,
        "decoder_positions": jnp.asarray([[0, 1]]),
        "decoder_loss_weights": ones.astype(jnp.float32),
    }
    _, sums = summed_nll(
        lambda states: states, logits, batch, label_smoothing=0.0, z_loss=0.0, chunk=0
    )
    assert sums["correct"] == 1


def test_normaliser_is_what_the_objective_names_and_never_zero():
    sums = {"tokens": jnp.float32(12), "sequences": jnp.float32(3)}
    assert normaliser(sums, "tokens") == 12
    assert normaliser(sums, "sequences") == 3
    assert normaliser({"tokens": jnp.float32(0)}, "tokens") == 1
