"""Random choice of the next token, by keys that belong to a record and to nothing around it.

Temperature, top-k, top-p (Holtzman et al. 2020, arXiv 1904.09751) and min-p (Nguyen et al. 2024,
arXiv 2407.01082) work together, in this order, each on what the one before has kept: the sets that
transformers' warpers keep.
"""

import hashlib
import json
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from instructrec_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingSettings:
    """How to draw; None leaves a filter out. Values compile nothing new."""

    temperature: Array | float = 1.0  # logits are divided by it
    top_k: Array | int | None = None  # the k likeliest tokens, and those as likely as the last
    top_p: Array | float | None = None  # the fewest likeliest tokens of at least this probability
    min_p: Array | float | None = None  # tokens at least this times as probable as the likeliest
    seed: Array | int = 0
    num_outputs: int = field(default=1, metadata={"static": True})  # answers, each by its own key

    def check(self) -> None:
        """ConfigError: a setting out of its range."""
        if not 0.0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be a number above 0, not {self.temperature}; the likeliest "
                "token is what --search=greedy takes"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            raise ConfigError(f"min_p must be from 0 to 1, not {self.min_p}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")
        if self.num_outputs < 1:
            raise ConfigError(f"num_outputs must be at least 1, not {self.num_outputs}")


def record_hash(record_id: str | int) -> int:
    """32 bits of a record's id: 1 and "1" are two ids."""
    digest = hashlib.sha256(json.dumps(record_id).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def row_key(seed: Array | int, row_seed: Array, new_tokens: Array) -> Array:
    """The key of one token: of the seed, the row's (record hash, output number) and the place."""
    key = jax.random.key(seed)
    for number in (row_seed[0], row_seed[1], new_tokens):
        key = jax.random.fold_in(key, number)
    return key


def draw(settings: SamplingSettings, logits: Array, row_seeds: Array, new_tokens: Array) -> Array:
    """int32 [R]: a token of each row, by its probability among those that are kept.

    From logits [R, V], uint32 row seeds [R, 2] (hash of the record, number of the output) and
    the number of tokens that each answer has, [R]. By the Gumbel trick: of logits to which
    independent Gumbel noise is added, the largest.
    """

    def noise(row_seed: Array, place: Array) -> Array:
        key = row_key(settings.seed, row_seed, place)
        return jax.random.gumbel(key, logits.shape[1:], jnp.float32)

    noisy = kept_logits(settings, logits) + jax.vmap(noise)(row_seeds, new_tokens)
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)


def kept_logits(settings: SamplingSettings, logits: Array) -> Array:
    """float32 [R, V]: logits over the temperature, -inf where a filter drops a token."""
    logits = logits / settings.temperature
    if settings.top_k is not None:
        enough = jnp.minimum(settings.top_k, logits.shape[-1]).astype(jnp.float32)
        logits = _above(logits, _threshold(logits, jnp.ones_like(logits), enough))
    if settings.top_p is not None:
        probabilities = jax.nn.softmax(logits, axis=-1)
        # Sums in float32 may reach 1 before the last token.
        enough = jnp.where(jnp.asarray(settings.top_p) < 1.0, settings.top_p, jnp.inf)
        logits = _above(logits, _threshold(logits, probabilities, enough))
    if settings.min_p is not None:
        probabilities = jax.nn.softmax(logits, axis=-1)
        least = settings.min_p * jnp.max(probabilities, axis=-1, keepdims=True)
        logits = jnp.where(probabilities < least, -jnp.inf, logits)
    return logits


def _threshold(logits: Array, weights: Array, enough: Array | float) -> Array:
    """uint32 [R, 1]: the rank (see `_ranks`) of the largest logit of each row for which it and all
    larger ones weigh `enough` together; 0 where all of them do not.

    Found bit by bit: sums over the vocabulary, which cost less than to sort it.
    """
    ranks = _ranks(logits)

    def with_bit(n: Array, threshold: Array) -> Array:
        higher = threshold | jnp.left_shift(jnp.uint32(1), (31 - n).astype(jnp.uint32))
        weight = jnp.sum(jnp.where(ranks >= higher, weights, 0.0), axis=-1, keepdims=True)
        return jnp.where(weight >= enough, higher, threshold)

    start = jnp.zeros((*logits.shape[:-1], 1), jnp.uint32)
    return jax.lax.fori_loop(0, 32, with_bit, start)


def _above(logits: Array, threshold: Array) -> Array:
    return jnp.where(_ranks(logits) >= threshold, logits, -jnp.inf)


def _ranks(logits: Array) -> Array:
    """uint32 in the order of the float32 numbers."""
    bits = jax.lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
