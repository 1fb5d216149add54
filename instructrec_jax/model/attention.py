"""Attention: masks, T5's relative position buckets, and the backends behind one function.

Shape letters: see layers.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Added where attention is not allowed. Finite, so that the rows of padding, which may attend
# nowhere, become a harmless uniform average and their gradients stay free of NaN.
MASKED = -1e10


def attention_mask(query_segments: Array, key_segments: Array, *, causal: bool) -> Array:
    """Where attention is allowed: bool [B, 1, T, S].

    `query_segments` [B, T] and `key_segments` [B, S] number the examples packed into a row; equal
    numbers attend to each other, 0 is padding and is attended by nobody. `causal` adds that a
    query sees no later place of its row.
    """
    mask = query_segments[:, :, None] == key_segments[:, None, :]
    mask &= key_segments[:, None, :] > 0
    if causal:
        target_length, source_length = query_segments.shape[1], key_segments.shape[1]
        mask &= jnp.arange(target_length)[:, None] >= jnp.arange(source_length)[None, :]
    return mask[:, None]


def einsum_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    bias: Array | None,
    query_segments: Array,
    key_segments: Array,
    causal: bool,
    dropout_rate: float,
    dropout_rng: Array | None,
) -> Array:
    """Attention that holds the whole [B, H, T, S] of weights; scores and softmax in float32.

    T5 does not divide the scores by sqrt(K): the initialisation of the query does.
    """
    scores = jnp.einsum("BHTK,BHSK->BHTS", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores += bias
    mask = attention_mask(query_segments, key_segments, causal=causal)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    if dropout_rng is not None:
        # As in T5X, one draw for all queries of a row: cheaper, and whole keys are dropped.
        batch, heads, _, source_length = weights.shape
        kept = jax.random.bernoulli(
            dropout_rng, 1.0 - dropout_rate, (batch, heads, 1, source_length)
        )
        weights = jnp.where(kept, weights / (1.0 - dropout_rate), 0.0)
    return jnp.einsum("BHTS,BHSK->BHTK", weights.astype(value.dtype), value)


# A backend computes the same function from the same arguments; tests prove each of them.
ATTENTION_BACKENDS: dict[str, Callable[..., Array]] = {"einsum": einsum_attention}


def attend(
    backend: str,
    query: Array,
    key: Array,
    value: Array,
    *,
    bias: Array | None,
    query_segments: Array,
    key_segments: Array,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_rng: Array | None = None,
) -> Array:
    """Multi-head attention: [B, H, T, K] from query [B, H, T, K], key and value [B, H, S, K].

    `bias` float32 [1 or B, H, T, S] is added to the scores. `query_segments` [B, T] and
    `key_segments` [B, S] say who may attend to whom, see `attention_mask`. Dropout on the weights
    happens where `dropout_rng` is given. Queries that may attend nowhere give finite values
    without meaning.
    """
    return ATTENTION_BACKENDS[backend](
        query,
        key,
        value,
        bias=bias,
        query_segments=query_segments,
        key_segments=key_segments,
        causal=causal,
        dropout_rate=dropout_rate,
        dropout_rng=dropout_rng,
    )


def relative_position_bucket(
    distance: Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """The bucket in [0, num_buckets) of each distance key place - query place (int32, any shape).

    Raffel et al. 2020, section 2.1: half of the buckets hold one distance each, the others grow
    logarithmically up to `max_distance`. `bidirectional` (encoder) gives each direction half of
    the buckets; otherwise (decoder) later keys share bucket 0. The rounding is exact, see
    `bucket_boundaries`.
    """
    first_bucket: Array | int = 0
    distance = jnp.asarray(distance)
    if bidirectional:
        num_buckets //= 2
        first_bucket = num_buckets * (distance > 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    boundaries = bucket_boundaries(num_buckets=num_buckets, max_distance=max_distance)
    # How many boundaries the distance has reached; there are few.
    return first_bucket + jnp.sum(distance[..., None] >= boundaries, axis=-1, dtype=jnp.int32)


def bucket_boundaries(*, num_buckets: int, max_distance: int) -> np.ndarray:
    """The least distance of bucket 1, 2, ..., num_buckets - 1 in one direction: int32.

    With e = num_buckets // 2 exact buckets and g = num_buckets - e growing ones, T5 puts n >= e
    into e + floor(log(n / e) / log(max_distance / e) * g). Bucket e + k thus begins at the least n
    with n^g e^k >= max_distance^k e^g: integers, where logarithms of floats can miss by one.
    """
    exact = num_buckets // 2
    growing = num_buckets - exact
    boundaries = list(range(1, exact + 1))
    for k in range(1, growing):
        distance = boundaries[-1]
        while distance**growing * exact**k < max_distance**k * exact**growing:
            distance += 1
        boundaries.append(distance)
    return np.asarray(boundaries, np.int32)


def spread_diagonals(values: Array, *, target_length: int, source_length: int) -> Array:
    """[H, T, S] whose entry (t, s) is `values[:, s - t + T - 1]`, from values [H, T + S - 1].

    Rows of N + 1 numbers read as rows of N shift by one a row. A reshape in both directions,
    where a gather would have a slow scatter for its gradient.
    """
    heads, diagonals = values.shape
    rows = jnp.pad(values, ((0, 0), (0, 1)))[:, None, :]
    rows = jnp.broadcast_to(rows, (heads, target_length, diagonals + 1)).reshape(heads, -1)
    rows = rows[:, : target_length * diagonals].reshape(heads, target_length, diagonals)
    return rows[:, :, target_length - 1 : target_length - 1 + source_length]
