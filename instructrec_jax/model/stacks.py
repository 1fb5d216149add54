"""Encoder and decoder: layers repeated by a scan, the relative bias computed once for all of them.

Shape letters: see layers.py.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import REMAT_POLICIES, constrain
from instructrec_jax.model.sublayers import (
    Attention,
    FeedForward,
    RelativeBias,
    make_dropout,
    make_norm,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeCache:
    """What decoding one token after another keeps: an ordinary pytree, passed and returned.

    Keys and values of the self attention up to `position`, and of the cross attention once and
    for all. T is the greatest number of tokens to decode.
    """

    self_key: Array  # [L, B, H, T, K] in the activation dtype
    self_value: Array
    cross_key: Array  # [L, B, H, S, K]
    cross_value: Array
    encoder_segment_ids: Array  # int32 [B, S]
    position: Array  # int32 []: tokens decoded so far, the same for all rows


class EncoderLayer(nn.Module):
    """Self attention and feed-forward, each on the norm of its input and added to it."""

    config: T5Config

    def setup(self) -> None:
        """The sublayers."""
        self.self_attention_norm = make_norm(self.config)
        self.self_attention = Attention(self.config)
        self.feed_forward_norm = make_norm(self.config)
        self.feed_forward = FeedForward(self.config)
        self.dropout = make_dropout(self.config)

    def __call__(
        self, x: Array, bias: Array, segment_ids: Array, deterministic: bool
    ) -> tuple[Array, None]:
        """[B, S, D] to [B, S, D], in the form that `nn.scan` wants."""
        normed = self.self_attention_norm(x)
        y = self.self_attention(
            normed,
            normed,
            bias=bias,
            query_segments=segment_ids,
            key_segments=segment_ids,
            causal=False,
            deterministic=deterministic,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.feed_forward(self.feed_forward_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic), None


class DecoderLayer(nn.Module):
    """Causal self attention, attention to the encoder, and feed-forward."""

    config: T5Config

    def setup(self) -> None:
        """The sublayers."""
        self.self_attention_norm = make_norm(self.config)
        self.self_attention = Attention(self.config)
        self.cross_attention_norm = make_norm(self.config)
        self.cross_attention = Attention(self.config)
        self.feed_forward_norm = make_norm(self.config)
        self.feed_forward = FeedForward(self.config)
        self.dropout = make_dropout(self.config)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        bias: Array,
        segment_ids: Array,
        encoder_segment_ids: Array,
        deterministic: bool,
    ) -> tuple[Array, None]:
        """[B, T, D] and encoded [B, S, D] to [B, T, D], in the form that `nn.scan` wants."""
        normed = self.self_attention_norm(x)
        y = self.self_attention(
            normed,
            normed,
            bias=bias,
            query_segments=segment_ids,
            key_segments=segment_ids,
            causal=True,
            deterministic=deterministic,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.cross_attention(
            self.cross_attention_norm(x),
            encoded,
            bias=None,
            query_segments=segment_ids,
            key_segments=encoder_segment_ids,
            causal=False,
            deterministic=deterministic,
        )
        x += self.dropout(y, deterministic=deterministic)
        y = self.feed_forward(self.feed_forward_norm(x), deterministic=deterministic)
        return x + self.dropout(y, deterministic=deterministic), None

    def cross_key_value(self, carry: None, encoded: Array) -> tuple[None, tuple[Array, Array]]:
        """Keys and values [B, H, S, K] of encoded [B, S, D] for this layer."""
        return carry, self.cross_attention.key_value(encoded)

    def step(
        self,
        carry: tuple[Array, Array, Array, Array],
        cross_key: Array,
        cross_value: Array,
        bias: Array,
        position: Array,
        encoder_segment_ids: Array,
    ) -> tuple[tuple[Array, Array, Array, Array], None]:
        """One place; the carry is (x [B, 1, D], this layer's number, all self keys, all values).

        The cache of all layers is carried so that it is written in place.
        """
        x, layer, all_keys, all_values = carry
        normed = self.self_attention_norm(x)
        key, value = self.self_attention.key_value(normed)
        start = (layer, 0, 0, position, 0)
        all_keys = jax.lax.dynamic_update_slice(all_keys, key[None], start)
        all_values = jax.lax.dynamic_update_slice(all_values, value[None], start)
        seen = jnp.arange(all_keys.shape[3]) <= position
        y = self.self_attention.step(
            normed,
            all_keys[layer],
            all_values[layer],
            bias=bias,
            key_segments=jnp.broadcast_to(seen, (x.shape[0], seen.shape[0])).astype(jnp.int32),
        )
        x += y
        y = self.cross_attention.step(
            self.cross_attention_norm(x),
            cross_key,
            cross_value,
            bias=None,
            key_segments=encoder_segment_ids,
        )
        x += y
        x += self.feed_forward(self.feed_forward_norm(x), deterministic=True)
        return (x, layer + 1, all_keys, all_values), None


def _scanned(
    layer: type[nn.Module],
    config: T5Config,
    *,
    length: int,
    arguments: int,
    methods: dict[str, tuple[Any, ...]],
) -> Any:
    """`layer` repeated `length` times with parameters of its own for each.

    `arguments` counts those of `__call__` after the carry; all of them go to every layer, the last
    is a Python bool. `methods` gives the same for further methods as scan axes (0: one slice a
    layer).
    """
    policy = REMAT_POLICIES[config.remat]
    if policy is not None:
        # Arguments are counted from the module itself: self, carry, arguments.
        layer = nn.remat(layer, policy=policy, prevent_cse=False, static_argnums=(arguments + 1,))
    shared: dict[str, Any] = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True, "dropout": True},
        "length": length,
    }
    axes = {"__call__": (nn.broadcast,) * arguments, **methods}
    return nn.scan(
        layer, methods={name: {**shared, "in_axes": in_axes} for name, in_axes in axes.items()}
    )(config)


class Encoder(nn.Module):
    """Embeddings to states that the decoder attends to."""

    config: T5Config

    def setup(self) -> None:
        """The stack."""
        config = self.config
        self.relative_bias = RelativeBias(config, bidirectional=True)
        self.layers = _scanned(
            EncoderLayer, config, length=config.num_encoder_layers, arguments=3, methods={}
        )
        self.final_norm = make_norm(config)
        self.dropout = make_dropout(config)

    def __call__(
        self,
        embeddings: Array,
        segment_ids: Array,
        positions: Array | None,
        *,
        deterministic: bool,
    ) -> Array:
        """[B, S, D] from embeddings [B, S, D]."""
        x = self.dropout(embeddings, deterministic=deterministic)
        bias = self.relative_bias(x.shape[1], positions)
        x, _ = self.layers(x, bias, segment_ids, deterministic)
        return self.dropout(self.final_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """Target embeddings and encoded inputs to final states, whole rows or one place at a time."""

    config: T5Config

    def setup(self) -> None:
        """The stack."""
        config = self.config
        self.relative_bias = RelativeBias(config, bidirectional=False)
        whole = nn.broadcast
        self.layers = _scanned(
            DecoderLayer,
            config,
            length=config.num_decoder_layers,
            arguments=5,
            methods={"cross_key_value": (whole,), "step": (0, 0, whole, whole, whole)},
        )
        self.final_norm = make_norm(config)
        self.dropout = make_dropout(config)

    def __call__(
        self,
        embeddings: Array,
        encoded: Array,
        segment_ids: Array,
        encoder_segment_ids: Array,
        *,
        deterministic: bool,
    ) -> Array:
        """[B, T, D] from embeddings [B, T, D] and encoded [B, S, D]."""
        x = self.dropout(embeddings, deterministic=deterministic)
        bias = self.relative_bias(x.shape[1])
        x, _ = self.layers(x, encoded, bias, segment_ids, encoder_segment_ids, deterministic)
        return self.dropout(self.final_norm(x), deterministic=deterministic)

    def start_cache(
        self, encoded: Array, encoder_segment_ids: Array, max_length: int
    ) -> DecodeCache:
        """See `T5.start_cache`."""
        _, (cross_key, cross_value) = self.layers.cross_key_value(None, encoded)
        layers, batch, heads, _, head_size = cross_key.shape
        empty = jnp.zeros((layers, batch, heads, max_length, head_size), cross_key.dtype)
        empty = constrain(empty, None, "batch", "heads", None, None)
        return DecodeCache(
            self_key=empty,
            self_value=empty,
            cross_key=cross_key,
            cross_value=cross_value,
            encoder_segment_ids=encoder_segment_ids,
            position=jnp.zeros((), jnp.int32),
        )

    def step(self, embeddings: Array, cache: DecodeCache) -> tuple[Array, DecodeCache]:
        """Final states [B, 1, D] from embeddings [B, 1, D], and the cache with this place added."""
        bias = self.relative_bias.step(cache.position, cache.self_key.shape[3])
        carry = (embeddings, jnp.zeros((), jnp.int32), cache.self_key, cache.self_value)
        carry, _ = self.layers.step(
            carry,
            cache.cross_key,
            cache.cross_value,
            bias,
            cache.position,
            cache.encoder_segment_ids,
        )
        x, _, self_key, self_value = carry
        cache = dataclasses.replace(
            cache, self_key=self_key, self_value=self_value, position=cache.position + 1
        )
        return self.final_norm(x), cache
