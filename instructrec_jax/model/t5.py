"""T5 (Raffel et al. 2020, arXiv 1910.10683) and the models of its family; see `T5Config`.

Layers are scanned, so every parameter of a layer has a leading L axis and the compiled program
does not grow with depth. Shape letters: see layers.py.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import Head, TokenEmbedder, constrain
from instructrec_jax.model.layouts import split_layers
from instructrec_jax.model.lora import ADAPTER_NAMES
from instructrec_jax.model.stacks import DecodeCache, Decoder, Encoder

Parameters = dict[str, Any]


class T5(nn.Module):
    """The whole model. Call with `T5(config).apply({"params": params}, ..., method=...)`.

    `batch` holds int32 features [B, S] or [B, T] of the data pipeline, of which the model reads
    `encoder_input_tokens`, `encoder_segment_ids`, `decoder_input_tokens` and
    `decoder_segment_ids`. Segments number the examples packed into a row from 1, the same on both
    sides and contiguous; 0 is padding. Dropout, where `deterministic` is False, draws from the
    `dropout` rng.
    """

    config: T5Config

    def setup(self) -> None:
        """The parts."""
        config = self.config
        dtype = jnp.dtype(config.activation_dtype)
        self.token_embedder = TokenEmbedder(config.vocabulary_size, config.d_model, dtype)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if not config.tied_embeddings:
            self.lm_head = Head(config.vocabulary_size, config.d_model, dtype)

    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> Array:
        """Logits, float32 [B, T, V]."""
        return self.logits(self.hidden(batch, deterministic=deterministic))

    def hidden(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> Array:
        """The input of `logits`: final decoder states [B, T, D] in the activation dtype."""
        encoded = self.encode(
            batch["encoder_input_tokens"],
            batch["encoder_segment_ids"],
            deterministic=deterministic,
        )
        return self.decode(
            batch["decoder_input_tokens"],
            encoded,
            batch["decoder_segment_ids"],
            batch["encoder_segment_ids"],
            deterministic=deterministic,
        )

    def decode(
        self,
        tokens: Array,
        encoded: Array,
        segment_ids: Array,
        encoder_segment_ids: Array,
        *,
        deterministic: bool = True,
    ) -> Array:
        """The input of `logits`, [B, T, D], of tokens [B, T] given encoded [B, S, D]."""
        x = self.decoder(
            self._embed(tokens),
            encoded,
            segment_ids,
            encoder_segment_ids,
            deterministic=deterministic,
        )
        return self._scaled(x)

    def logits(self, hidden: Array) -> Array:
        """float32 [..., V] from `hidden` [..., D]; any leading axes, so it can go by chunks."""
        head = self.token_embedder.attend if self.config.tied_embeddings else self.lm_head
        logits = head(hidden)
        middle = (None,) * (logits.ndim - 2)
        return constrain(logits, "batch", *middle, "vocabulary")

    def encode(
        self,
        tokens: Array,
        segment_ids: Array,
        positions: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Encoder states [B, S, D] of tokens [B, S]."""
        return self.encode_embeddings(
            self._embed(tokens), segment_ids, positions, deterministic=deterministic
        )

    def encode_embeddings(
        self,
        embeddings: Array,
        segment_ids: Array,
        positions: Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Array:
        """Encoder states [B, S, D] of embeddings [B, S, D], from tokens or anything else.

        `positions` [B, S] are needed only where they do not count up by one inside a segment: they
        cost a bias [B, H, S, S] in place of one shared by all rows.
        """
        return self.encoder(embeddings, segment_ids, positions, deterministic=deterministic)

    def start_cache(
        self, layers: tuple[Any, ...], encoded: Array, encoder_segment_ids: Array, max_length: int
    ) -> DecodeCache:
        """The cache before the first token, with room for the last `max_length` tokens of a row.

        From encoded [B, S, D] and segment ids [B, S]: 1 for the prompt, one a row, and 0 for
        padding. `layers` is `decoder_layers(params)`.
        """
        return self.decoder.start_cache(layers, encoded, encoder_segment_ids, max_length)

    def decode_step(
        self, layers: tuple[Any, ...], tokens: Array, cache: DecodeCache
    ) -> tuple[Array, DecodeCache]:
        """Logits, float32 [B, V], of what follows tokens [B], and the cache with them added.

        The first tokens are 0, T5's start of a target. `layers` is `decoder_layers(params)`.
        """
        x, cache = self.decoder.step(layers, self._embed(tokens[:, None]), cache)
        return self.logits(self._scaled(x)[:, 0]), cache

    def _embed(self, tokens: Array) -> Array:
        return constrain(self.token_embedder(tokens), "batch", None, None)

    def _scaled(self, x: Array) -> Array:
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_output else x


@partial(jax.jit, static_argnames="config")
def init_parameters(config: T5Config, rng: Array) -> Parameters:
    """Fresh float32 parameters: a plain nested dict, initialised as in T5X for T5 1.1."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    batch = {
        f"{side}_{feature}": tokens
        for side in ("encoder", "decoder")
        for feature in ("input_tokens", "segment_ids")
    }
    # The parameters do not depend on how layers are looped over, the time to compile this does.
    config = dataclasses.replace(config, scan_unroll=1)
    return T5(config).init(rng, batch)["params"]


def decoder_layers(params: Parameters) -> tuple[Parameters, ...]:
    """The parameters of each decoder layer, for `T5.start_cache` and `T5.decode_step`.

    Made once, outside of the decoding loop: slices taken at every step would copy all weights for
    every token. ValueError: adapters, which are merged first, see `lora.merge_adapters`.
    """
    layers = params["decoder"]["layers"]
    if any(
        path[-1].key in ADAPTER_NAMES for path, _ in jax.tree_util.tree_leaves_with_path(layers)
    ):
        raise ValueError("decoding takes no adapters: merge them into the kernels first")
    return split_layers(layers)


def parameter_count(config: T5Config) -> int:
    """Numbers in the parameters; nothing is allocated."""
    shapes = jax.eval_shape(partial(init_parameters, config), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
