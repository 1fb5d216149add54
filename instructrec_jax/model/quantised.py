"""Weights of 8 bits for decoding: integers, and one float32 scale for each output channel.

A matrix `kernel` [..., in, out] becomes int8 of the same shape and `kernel_scale` [..., 1, out]
beside it; the embedding [V, D], whose rows are the channels of a tied head, has `embedding_scale`
[V, 1]. Symmetric and to the nearest: a weight is off by half a scale at most, and a scale is the
channel's largest weight / 127. Norms and relative biases stay as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

_LARGEST = 127  # -128 is left out, so that a weight and its negative are as exact
_SUFFIX = "_scale"


def channel_axis(path: str) -> int | None:
    """The axis over which the numbers of a channel lie, of a parameter such as
    "encoder/layers/self_attention/query/kernel"; None: it is not quantised."""
    if path == "token_embedder/embedding":
        return -1
    return -2 if path.endswith("/kernel") else None


def scale_name(name: str) -> str:
    """What the scales of a parameter "kernel" are called."""
    return name + _SUFFIX


def is_scale(name: str) -> bool:
    """Whether a parameter of this name holds scales of another one."""
    return name.endswith(_SUFFIX)


def quantised(weights: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 and float32 scales, of size 1 along `axis`; their product is nearly `weights`.

    Goes by the first axis of a stack of layers, so that few floats are alive at once.
    """
    if weights.ndim > 2:
        values, scales = zip(*(quantised(layer, axis=axis) for layer in weights), strict=True)
        return np.stack(values), np.stack(scales)
    weights = weights.astype(np.float32, copy=False)
    largest = np.max(np.abs(weights), axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST, np.float32(1.0)).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def quantised_product(x: Array, values: Array, scales: Array) -> Array:
    """float32 [..., out]: x [..., in] times the matrix of int8 `values` [in, out] and its scales.

    On CPUs the activations of each place are rounded to 8 bits by their own largest one, as
    CTranslate2 does: a product of integers takes a fraction of the time there, where one of floats
    would have to write the matrix in float32 first. Elsewhere they stay as they are.
    """
    if jax.default_backend() != "cpu":
        dtype = x.dtype
        return jnp.matmul(x, values.astype(dtype), preferred_element_type=jnp.float32) * scales[0]
    shape = (*x.shape[:-1], values.shape[-1])
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    steps = jnp.where(largest > 0, largest / _LARGEST, 1.0)
    integers = jnp.round(x / steps).astype(jnp.int8)
    if alone := integers.size == integers.shape[-1]:
        # XLA has no product of an integer vector: it writes the matrix in 32 bits.
        integers = jnp.pad(integers.reshape(1, -1), ((0, 1), (0, 0)))
    sums = jnp.matmul(integers, values, preferred_element_type=jnp.int32)
    if alone:
        sums = sums[:1].reshape(shape)
    return sums.astype(jnp.float32) * steps * scales[0]
