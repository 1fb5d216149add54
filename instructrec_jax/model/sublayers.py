"""The parts of a layer: attention, its relative bias, and the feed-forward.

Shape letters: see layers.py.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from instructrec_jax.model.attention import attend, relative_position_bucket, spread_diagonals
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import ACTIVATIONS, Norm, Projection, constrain


class RelativeBias(nn.Module):
    """One number a head for each bucket of distances, of a whole stack or of one layer."""

    config: T5Config
    bidirectional: bool

    def setup(self) -> None:
        """The table [buckets, H], initialised as in T5X."""
        self.embedding = self.param(
            "embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.config.relative_attention_buckets, self.config.num_heads),
            jnp.float32,
        )

    def _of_distance(self, distance: Array) -> Array:
        """[..., H] of distances [...]."""
        buckets = relative_position_bucket(
            distance,
            bidirectional=self.bidirectional,
            num_buckets=self.config.relative_attention_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return jnp.take(self.embedding, buckets, axis=0)

    def __call__(self, length: int, positions: Array | None = None) -> Array:
        """float32 [1, H, T, T] for places 0 ... length - 1, or [B, H, T, T] for `positions` [B, T].

        Inside a contiguous segment, places in the row differ by as much as positions in the
        example do, and other pairs are masked: packed rows need no positions and share one bias.
        """
        if positions is not None:
            bias = self._of_distance(positions[:, None, :] - positions[:, :, None])
            return jnp.moveaxis(bias, -1, 1)
        values = self._of_distance(jnp.arange(1 - length, length)).T
        return spread_diagonals(values, target_length=length, source_length=length)[None]

    def step(self, ages: Array) -> Array:
        """float32 [1, H, 1, T]: one query against keys `ages` [T] places before it."""
        return self._of_distance(-ages).T[None, :, None, :]


class Attention(nn.Module):
    """Multi-head attention; the scale 1 / sqrt(K) sits in the initial query kernel."""

    config: T5Config

    def setup(self) -> None:
        """Four kernels, initialised as in T5X."""
        config = self.config
        dtype = jnp.dtype(config.activation_dtype)
        joined = config.num_heads * config.head_size
        fan_in = config.d_model**-0.5

        def projection(stddev: float) -> Projection:
            initializer = nn.initializers.normal(stddev)
            return Projection((config.d_model, joined), initializer, dtype, config.lora)

        self.query = projection(fan_in * config.head_size**-0.5)
        self.key = projection(fan_in)
        self.value = projection(fan_in)
        initializer = nn.initializers.normal(joined**-0.5)
        self.out = Projection((joined, config.d_model), initializer, dtype, config.lora)

    def __call__(
        self,
        x: Array,
        source: Array,
        *,
        bias: Array | None,
        query_segments: Array,
        key_segments: Array,
        causal: bool,
        deterministic: bool,
    ) -> Array:
        """[B, T, D] from x [B, T, D] attending to source [B, S, D]."""
        dropout_rate = 0.0 if deterministic else self.config.dropout_rate
        key, value = self.key_value(source, deterministic=deterministic)
        attended = attend(
            self.config.attention,
            self._by_heads(self.query(x, deterministic=deterministic)),
            key,
            value,
            bias=bias,
            query_segments=query_segments,
            key_segments=key_segments,
            causal=causal,
            dropout_rate=dropout_rate,
            dropout_rng=self.make_rng("dropout") if dropout_rate else None,
        )
        return self._joined(attended, deterministic=deterministic)

    def key_value(self, source: Array, *, deterministic: bool = True) -> tuple[Array, Array]:
        """Keys and values [B, H, S, K] of source [B, S, D]."""
        key = self.key(source, deterministic=deterministic)
        value = self.value(source, deterministic=deterministic)
        return self._by_heads(key), self._by_heads(value)

    def step(
        self, x: Array, key: Array, value: Array, *, bias: Array | None, key_segments: Array
    ) -> Array:
        """[B, 1, D] from one place x [B, 1, D] and cached keys and values [B, H, S, K]."""
        attended = attend(
            "einsum",
            self._by_heads(self.query(x, deterministic=True)),
            key,
            value,
            bias=bias,
            query_segments=jnp.ones(x.shape[:2], jnp.int32),
            key_segments=key_segments,
        )
        return self._joined(attended, deterministic=True)

    def _by_heads(self, x: Array) -> Array:
        """[B, H, T, K] from [B, T, H * K]."""
        heads = x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_size)
        return constrain(jnp.swapaxes(heads, 1, 2), "batch", "heads", None, None)

    def _joined(self, x: Array, *, deterministic: bool) -> Array:
        """[B, T, D] from attended [B, H, T, K]."""
        x = jnp.swapaxes(constrain(x, "batch", "heads", None, None), 1, 2)
        x = self.out(x.reshape(*x.shape[:2], -1), deterministic=deterministic)
        return constrain(x, "batch", None, None)


class FeedForward(nn.Module):
    """activation(x gate) * (x up), projected down (Shazeer 2020, arXiv 2002.05202).

    Ungated, as in T5 1.0: activation(x up), projected down.
    """

    config: T5Config

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """[B, T, D] from [B, T, D]."""
        config = self.config
        dtype = jnp.dtype(config.activation_dtype)
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        into, back = (config.d_model, config.d_ff), (config.d_ff, config.d_model)
        activation = ACTIVATIONS[config.activation]
        up = Projection(into, fan_in, dtype, config.lora, name="up")
        if config.gated_feed_forward:
            gate = Projection(into, fan_in, dtype, config.lora, name="gate")
            gated = activation(gate(x, deterministic=deterministic))
            x = gated * up(x, deterministic=deterministic)
        else:
            x = activation(up(x, deterministic=deterministic))
        x = constrain(x, "batch", None, "feed_forward")
        x = make_dropout(config)(x, deterministic=deterministic)
        down = Projection(back, fan_in, dtype, config.lora, name="down")
        x = down(x, deterministic=deterministic)
        return constrain(x, "batch", None, None)


def make_dropout(config: T5Config) -> nn.Dropout:
    """Dropout in T5's places. As in T5X one draw serves all places of a row: far fewer numbers.

    Examples packed into one row therefore lose the same features.
    """
    return nn.Dropout(config.dropout_rate, broadcast_dims=(1,))


def make_norm(config: T5Config) -> Norm:
    """The model's norm, giving activations."""
    return Norm(config.layer_norm_epsilon, jnp.dtype(config.activation_dtype))
