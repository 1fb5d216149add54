"""Encoder and decoder: layers repeated by a scan, the relative bias computed once or in each.

Shape letters: see layers.py.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
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
class LayerCache:
    """Keys and values of one decoder layer, in the activation dtype."""

    self_key: Array  # [B, H, T, K], T the greatest number of tokens to decode
    self_value: Array
    cross_key: Array  # [B, H, S, K]
    cross_value: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeCache:
    """What decoding one token after another keeps: an ordinary pytree, passed and returned.

    Keys and values lie in a ring: those of position p in place p % T of the T that there is room
    for. T5 knows distances alone and no places, so a row may start at any position, and one that
    has ended can give its room to another while the others go on.
    """

    layers: tuple[LayerCache, ...]
    encoder_segment_ids: Array  # int32 [B, S]
    position: Array  # int32 []: tokens decoded so far, the same for all rows
    start: Array  # int32 [B]: position of each row's first token; those before it are not its own


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reach:
    """What the query at a position sees of the ring."""

    place: Array  # int32 []: where its own key and value go
    ages: Array  # int32 [T]: how many positions ago each place was written
    seen: Array  # int32 [B, T]: 1 where the place holds a token of the row


def reach_of(cache: DecodeCache) -> Reach:
    """What the tokens at `cache.position` see."""
    length = cache.layers[0].self_key.shape[2]
    ages = (cache.position - jnp.arange(length)) % length
    return Reach(
        place=cache.position % length,
        ages=ages,
        seen=(ages <= (cache.position - cache.start)[:, None]).astype(jnp.int32),
    )


class EncoderLayer(nn.Module):
    """Self attention and feed-forward, each on the norm of its input and added to it."""

    config: T5Config

    def setup(self) -> None:
        """The sublayers; a relative bias of its own where the stack shares none."""
        if not self.config.shared_relative_bias:
            self.relative_bias = RelativeBias(self.config, bidirectional=True)
        self.self_attention_norm = make_norm(self.config)
        self.self_attention = Attention(self.config)
        self.feed_forward_norm = make_norm(self.config)
        self.feed_forward = FeedForward(self.config)
        self.dropout = make_dropout(self.config)

    def __call__(
        self,
        x: Array,
        bias: Array | None,
        segment_ids: Array,
        positions: Array | None,
        deterministic: bool,
    ) -> tuple[Array, None]:
        """[B, S, D] to [B, S, D], in the form that `nn.scan` wants.

        `bias` is the stack's, None where the layer makes its own (of `positions`, if given).
        """
        if bias is None:
            bias = self.relative_bias(x.shape[1], positions)
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
        """The sublayers; a relative bias of its own where the stack shares none."""
        if not self.config.shared_relative_bias:
            self.relative_bias = RelativeBias(self.config, bidirectional=False)
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
        bias: Array | None,
        segment_ids: Array,
        encoder_segment_ids: Array,
        deterministic: bool,
    ) -> tuple[Array, None]:
        """[B, T, D] and encoded [B, S, D] to [B, T, D], in the form that `nn.scan` wants.

        `bias` is the stack's, None where the layer makes its own.
        """
        if bias is None:
            bias = self.relative_bias(x.shape[1])
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

    def start_cache(self, encoded: Array, max_length: int) -> LayerCache:
        """The cache before the first of `max_length` tokens, from encoded [B, S, D]."""
        key, value = self.cross_attention.key_value(encoded)
        batch, heads, _, head_size = key.shape
        empty = jnp.zeros((batch, heads, max_length, head_size), key.dtype)
        empty = constrain(empty, "batch", "heads", None, None)
        return LayerCache(self_key=empty, self_value=empty, cross_key=key, cross_value=value)

    def step(
        self,
        x: Array,
        cache: LayerCache,
        bias: Array | None,
        reach: Reach,
        encoder_segment_ids: Array,
    ) -> tuple[Array, LayerCache]:
        """x [B, 1, D] to [B, 1, D], and the cache with its key and value.

        The cache of the encoder's side may have fewer rows, each for as many rows of x on end.
        """
        if bias is None:
            bias = self.relative_bias.step(reach.ages)
        normed = self.self_attention_norm(x)
        key, value = self.self_attention.key_value(normed)
        keys = jax.lax.dynamic_update_slice_in_dim(cache.self_key, key, reach.place, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(cache.self_value, value, reach.place, axis=2)
        x += self.self_attention.step(
            normed,
            keys,
            values,
            bias=bias,
            key_segments=reach.seen,
        )
        # Rows that answer one prompt, as beams do, are so many queries to its keys: no copies.
        normed = self.cross_attention_norm(x).reshape(cache.cross_key.shape[0], -1, x.shape[-1])
        attended = self.cross_attention.step(
            normed,
            cache.cross_key,
            cache.cross_value,
            bias=None,
            key_segments=encoder_segment_ids,
        )
        x += attended.reshape(x.shape)
        x += self.feed_forward(self.feed_forward_norm(x), deterministic=True)
        return x, dataclasses.replace(cache, self_key=keys, self_value=values)


def _scanned(layer: type[nn.Module], config: T5Config, *, length: int, arguments: int) -> Any:
    """`layer` repeated `length` times, each time with parameters of its own.

    `arguments` counts those of its call after the carry: every layer gets the same ones, and the
    last is a Python bool.
    """
    policy = REMAT_POLICIES[config.remat]
    if policy is not None:
        # Arguments are counted from the module itself: self, carry, arguments.
        layer = nn.remat(layer, policy=policy, prevent_cse=False, static_argnums=(arguments + 1,))
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast,) * arguments,
        length=length,
        unroll=min(config.scan_unroll, length),
    )(config)


class Encoder(nn.Module):
    """Embeddings to states that the decoder attends to."""

    config: T5Config

    def setup(self) -> None:
        """The stack."""
        config = self.config
        if config.shared_relative_bias:
            self.relative_bias = RelativeBias(config, bidirectional=True)
        self.layers = _scanned(EncoderLayer, config, length=config.num_encoder_layers, arguments=4)
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
        bias = None
        if self.config.shared_relative_bias:
            bias, positions = self.relative_bias(x.shape[1], positions), None
        x, _ = self.layers(x, bias, segment_ids, positions, deterministic)
        return self.dropout(self.final_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """Target embeddings and encoded inputs to final states, whole rows or one place at a time."""

    config: T5Config

    def setup(self) -> None:
        """The stack."""
        config = self.config
        if config.shared_relative_bias:
            self.relative_bias = RelativeBias(config, bidirectional=False)
        self.layers = _scanned(DecoderLayer, config, length=config.num_decoder_layers, arguments=5)
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
        bias = self.relative_bias(x.shape[1]) if self.config.shared_relative_bias else None
        x, _ = self.layers(x, encoded, bias, segment_ids, encoder_segment_ids, deterministic)
        return self.dropout(self.final_norm(x), deterministic=deterministic)

    def start_cache(
        self, layers: tuple[Any, ...], encoded: Array, encoder_segment_ids: Array, max_length: int
    ) -> DecodeCache:
        """See `T5.start_cache`."""
        start: Any = partial(DecoderLayer(self.config, parent=None).apply, method="start_cache")
        return DecodeCache(
            layers=tuple(start({"params": params}, encoded, max_length) for params in layers),
            encoder_segment_ids=encoder_segment_ids,
            position=jnp.zeros((), jnp.int32),
            start=jnp.zeros(encoded.shape[0], jnp.int32),
        )

    def step(
        self, layers: tuple[Any, ...], embeddings: Array, cache: DecodeCache
    ) -> tuple[Array, DecodeCache]:
        """Final states [B, 1, D] from embeddings [B, 1, D], and the cache with this place added."""
        x = embeddings
        bias = None
        reach = reach_of(cache)
        if self.config.shared_relative_bias:
            bias = self.relative_bias.step(reach.ages)
        step: Any = partial(DecoderLayer(self.config, parent=None).apply, method="step")
        layer_caches = []
        for params, layer_cache in zip(layers, cache.layers, strict=True):
            x, layer_cache = step(
                {"params": params},
                x,
                layer_cache,
                bias,
                reach,
                cache.encoder_segment_ids,
            )
            layer_caches.append(layer_cache)
        cache = dataclasses.replace(cache, layers=tuple(layer_caches), position=cache.position + 1)
        return self.final_norm(x), cache
