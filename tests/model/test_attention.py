import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrec_jax.model.attention import (
    ATTENTION_BACKENDS,
    attend,
    attention_mask,
    bucket_boundaries,
    relative_position_bucket,
    spread_diagonals,
)

# The fourth half is odd, the fifth whole odd, the last as few as there may be.
BUCKET_SETTINGS = [(32, 128), (32, 64), (16, 20), (30, 200), (7, 40), (64, 256), (4, 3)]


def float64_bucket(distance, *, bidirectional, num_buckets, max_distance):
    """The formula of the T5 code, element by element in float64, powers by exact comparison."""
    first = 0
    n = -distance
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if n < 0 else 0
        n = abs(n)
    else:
        n = max(n, 0)
    exact = num_buckets // 2
    if n < exact:
        return first + n
    grown = np.log(n / exact) / np.log(max_distance / exact) * (num_buckets - exact)
    # float64 is within 1e-12 of the true value; at an integer the true value counts.
    grown = round(grown) if abs(grown - round(grown)) < 1e-9 else int(grown)
    return first + min(exact + grown, num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), BUCKET_SETTINGS)
def test_buckets_equal_a_float64_reference(bidirectional, num_buckets, max_distance):
    setting = {
        "bidirectional": bidirectional,
        "num_buckets": num_buckets,
        "max_distance": max_distance,
    }
    distances = np.arange(-300, 301)
    expected = [float64_bucket(int(d), **setting) for d in distances]
    np.testing.assert_array_equal(relative_position_bucket(distances, **setting), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), BUCKET_SETTINGS[:5])
def test_buckets_equal_those_of_transformers(bidirectional, num_buckets, max_distance):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    setting = {
        "bidirectional": bidirectional,
        "num_buckets": num_buckets,
        "max_distance": max_distance,
    }
    distances = np.arange(-300, 301)
    expected = t5.T5Attention._relative_position_bucket(torch.from_numpy(distances), **setting)
    np.testing.assert_array_equal(relative_position_bucket(distances, **setting), expected.numpy())


def test_bucket_boundaries_of_t5_by_hand():
    # Decoder: 16 exact, then 16 * 8^(k / 16); the doublings 32, 64 are exact powers.
    boundaries = bucket_boundaries(num_buckets=32, max_distance=128)
    assert list(boundaries[:16]) == list(range(1, 17))
    assert list(boundaries[16:]) == [19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    # Encoder: 8 exact, then 8 * 16^(k / 8) = 8 * 2^(k / 2).
    boundaries = bucket_boundaries(num_buckets=16, max_distance=128)
    assert list(boundaries[8:]) == [12, 16, 23, 32, 46, 64, 91]


def test_spread_diagonals():
    values = np.arange(2 * 6, dtype=np.float32).reshape(2, 6)
    spread = spread_diagonals(jnp.asarray(values), target_length=3, source_length=4)
    expected = [[[values[h, s - t + 2] for s in range(4)] for t in range(3)] for h in range(2)]
    np.testing.assert_array_equal(spread, expected)


def test_mask_by_hand():
    query = np.array([[1, 1, 2, 0]])
    key = np.array([[1, 2, 2, 0]])
    expected = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(attention_mask(query, key, causal=False)[0, 0], expected)
    np.testing.assert_array_equal(
        attention_mask(query, key, causal=True)[0, 0], expected & np.tri(4, dtype=bool)
    )


@pytest.mark.parametrize("backend", sorted(ATTENTION_BACKENDS))
def test_backend_equals_numpy(backend):
    random = np.random.RandomState(0)
    query, key, value = (random.standard_normal((2, 3, n, 4)).astype("f") for n in (5, 6, 6))
    bias = random.standard_normal((1, 3, 5, 6)).astype("f")
    query_segments = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 1]])
    key_segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    result = attend(
        backend,
        query,
        key,
        value,
        bias=bias,
        query_segments=query_segments,
        key_segments=key_segments,
    )
    for b in range(2):
        for t in range(5):
            seen = key_segments[b] == query_segments[b, t]
            for h in range(3):
                scores = key[b, h, seen] @ query[b, h, t] + bias[0, h, t, seen]
                weights = np.exp(scores - scores.max())
                expected = weights @ value[b, h, seen] / weights.sum()
                np.testing.assert_allclose(result[b, h, t], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", sorted(ATTENTION_BACKENDS))
def test_queries_that_see_nothing_are_finite_with_finite_gradients(backend):
    ones = jnp.ones((1, 2, 3, 4))

    def total(query, key, value, bias):
        segments = jnp.zeros((1, 3), jnp.int32)
        return attend(
            backend,
            query,
            key,
            value,
            bias=bias,
            query_segments=segments,
            key_segments=segments,
            causal=True,
        ).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(
        ones, ones, ones, jnp.ones((1, 2, 3, 3))
    )
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
