"""Beam search with a key and value cache, its answers and scores those of transformers 5.

The search keeps two lists of `num_beams` answers for each prompt: those under way, by their summed
log-probability, and those that have ended, by that sum divided by length^length_penalty (Wu et al.
2016, arXiv 1609.08144, without their constant 5). The 2 * num_beams best continuations of the
answers under way are the candidates of a step. Those that end with eos leave the search, and of
these only the ones among the best num_beams enter the list of the ended.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from instructrec_jax.decoding.batching import inference_model
from instructrec_jax.errors import ConfigError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import constrain
from instructrec_jax.model.t5 import T5, DecodeCache, decoder_layers


@dataclass(frozen=True)
class BeamSettings:
    """How to search; the names and defaults are those of transformers' `generate`.

    A prompt's search ends when `num_beams` answers have ended and, by `early_stopping`:
    - True: at once;
    - False: no answer under way could enter the list by its score at its present length;
    - "never": nor at the length limit, which matters where a `length_penalty` above 0 divides
      longer answers' sums by more.
    All of them end at the length limit, where the best answers under way count as ended.
    ConfigError: more outputs than beams.
    """

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_outputs: int = 1  # best answers to return, num_beams at most

    def __post_init__(self) -> None:
        if not 1 <= self.num_outputs <= self.num_beams:
            raise ConfigError(
                f"num_outputs must be from 1 to num_beams ({self.num_beams}), "
                f"not {self.num_outputs}"
            )

    def check(self, *, max_new_tokens: int, vocabulary_size: int) -> None:
        """ConfigError where no such search for so many tokens of so many kinds can be."""
        if self.num_beams >= vocabulary_size:
            raise ConfigError(
                f"num_beams must be less than the {vocabulary_size} tokens of the vocabulary, "
                f"not {self.num_beams}"
            )
        divisors = self.length_divisors(max_new_tokens)
        if not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise ConfigError(
                f"length_penalty {self.length_penalty} is out of range: {max_new_tokens} tokens to "
                "this power are no float32 number"
            )

    def length_divisors(self, max_new_tokens: int) -> np.ndarray:
        """float32 [max_new_tokens]: what divides the sum of 1, 2, ... tokens, eos included."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            powers = np.arange(1, max_new_tokens + 1, dtype=np.float64) ** self.length_penalty
            return powers.astype(np.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beams:
    """Answers to each prompt, the best first. N: num_beams."""

    tokens: Array  # int32 [B, N, max_new_tokens], 0 after the end
    lengths: Array  # int32 [B, N], eos included; 0: no answer
    scores: Array  # float32 [B, N]: natural log-probability, summed
    beam_scores: Array  # float32 [B, N]: scores / length^length_penalty; -inf: no answer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """A beam search under way."""

    cache: DecodeCache  # self-attention of B * N rows, attention to the encoder of B
    last_tokens: Array  # int32 [B * N]
    tokens: Array  # int32 [B, N, max_new_tokens]: of the answers under way
    scores: Array  # float32 [B, N]: theirs, descending; -inf where there is none
    ended: Beams
    open: Array  # bool [B]: an answer under way may still become one of the best


def beam_search(
    params: Any,
    tokens: Array | np.ndarray,
    segment_ids: Array | np.ndarray,
    *,
    config: T5Config,
    settings: BeamSettings,
    max_new_tokens: int,
    min_new_tokens: int,
    eos_id: int,
) -> Beams:
    """The best `settings.num_beams` answers to each prompt, whole on every device.

    From prompts [B, S], one a row with segment id 1, padding 0; rows of padding alone stay empty.
    An answer ends after `min_new_tokens` others at the earliest. Log-probabilities are those of the
    whole vocabulary, also where an early eos would be likelier than what is chosen. Ends as soon as
    the searches of all rows have, and no row can tell which others were beside it. ConfigError: see
    `BeamSettings.check`.
    """
    settings.check(max_new_tokens=max_new_tokens, vocabulary_size=config.vocabulary_size)
    divisors = settings.length_divisors(max_new_tokens)
    to_the_end = settings.early_stopping == "never" and settings.length_penalty > 0
    return _beam_search(
        params,
        tokens,
        segment_ids,
        config=config,
        num_beams=settings.num_beams,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        divisors=divisors,
        hoped_divisors=np.full_like(divisors, divisors[-1]) if to_the_end else divisors,
        stop_when_full=settings.early_stopping is True,
        eos_id=eos_id,
    )


@partial(jax.jit, static_argnames=("config", "num_beams", "max_new_tokens"))
def _beam_search(
    params: Any,
    tokens: Array | np.ndarray,
    segment_ids: Array | np.ndarray,
    *,
    config: T5Config,
    num_beams: int,
    max_new_tokens: int,
    min_new_tokens: Array | int,
    divisors: Array,
    hoped_divisors: Array,
    stop_when_full: Array | bool,
    eos_id: Array | int,
) -> Beams:
    """See `beam_search`; compiled once for all settings but the number of beams.

    `divisors` float32 [max_new_tokens] are those of the lengths 1, 2, ..., and `hoped_divisors`
    those by which an answer under way is thought to end.
    """
    params, config = inference_model(params, config)
    apply: Callable[..., Any] = partial(T5(config).apply, {"params": params})
    layers = decoder_layers(params)
    ids = jnp.arange(config.vocabulary_size)

    def under_way(search: _Search) -> Array:
        return (search.cache.position < max_new_tokens) & jnp.any(search.open)

    def step(search: _Search) -> _Search:
        position = search.cache.position
        logits, cache = apply(layers, search.last_tokens, search.cache, method="decode_step")
        allowed = (ids != eos_id) | (position >= min_new_tokens)
        return _advanced(
            search,
            cache,
            _candidates(logits, allowed, search.scores),
            eos_id=eos_id,
            divisor=divisors[position],
            hoped_divisor=hoped_divisors[position],
            stop_when_full=stop_when_full,
        )

    cache = apply(
        layers,
        apply(tokens, segment_ids, method="encode"),
        segment_ids,
        max_new_tokens,
        method="start_cache",
    )
    search = _start(cache, num_beams=num_beams, max_new_tokens=max_new_tokens)
    ended = jax.lax.while_loop(under_way, step, search).ended
    return jax.tree.map(lambda leaf: constrain(leaf, *(None,) * leaf.ndim), ended)


def _start(cache: DecodeCache, *, num_beams: int, max_new_tokens: int) -> _Search:
    """Before the first token: one empty answer to each prompt, its other beams ruled out."""
    batch = cache.encoder_segment_ids.shape[0]

    def for_beams(keys: Array) -> Array:
        empty = jnp.zeros((batch * num_beams, *keys.shape[1:]), keys.dtype)
        return constrain(empty, "batch", "heads", None, None)

    tokens = jnp.zeros((batch, num_beams, max_new_tokens), jnp.int32)
    nothing = jnp.full((batch, num_beams), -jnp.inf, jnp.float32)
    return _Search(
        cache=_with_self_attention(cache, for_beams),
        last_tokens=jnp.zeros(batch * num_beams, jnp.int32),
        tokens=tokens,
        scores=nothing.at[:, 0].set(0.0),
        ended=Beams(tokens, jnp.zeros((batch, num_beams), jnp.int32), nothing, nothing),
        open=jnp.any(cache.encoder_segment_ids > 0, axis=1),
    )


def _advanced(
    search: _Search,
    cache: DecodeCache,
    candidates: tuple[Array, Array, Array],
    *,
    eos_id: Array | int,
    divisor: Array,
    hoped_divisor: Array,
    stop_when_full: Array | bool,
) -> _Search:
    """The search after a step: `cache` has its place added, `candidates` are of `_candidates`.

    `divisor` and `hoped_divisor` are those of this step's length.
    """
    parents, chosen, scores = candidates
    num_beams, max_new_tokens = search.tokens.shape[1:]
    tokens = _of_beams(search.tokens, parents).at[:, :, cache.position - 1].set(chosen)
    is_eos = chosen == eos_id
    ends = (is_eos | (cache.position == max_new_tokens)) & search.open[:, None]
    candidates_ended = Beams(
        tokens=tokens,
        lengths=jnp.full_like(chosen, cache.position),
        scores=scores,
        beam_scores=jnp.where(ends, scores / divisor, -jnp.inf),
    )
    ended = _with_ended(search.ended, jax.tree.map(lambda x: x[:, :num_beams], candidates_ended))
    running_scores, kept = jax.lax.top_k(jnp.where(is_eos, -jnp.inf, scores), num_beams)
    worst = ended.beam_scores[:, -1]
    improvable = running_scores[:, 0] / hoped_divisor > worst
    full = worst > -jnp.inf
    return _Search(
        cache=_reordered(cache, _of_beams(parents, kept)),
        last_tokens=_of_beams(chosen, kept).reshape(-1),
        tokens=_of_beams(tokens, kept),
        scores=running_scores,
        ended=ended,
        open=search.open & improvable & ~(full & stop_when_full),
    )


def _candidates(logits: Array, allowed: Array, scores: Array) -> tuple[Array, Array, Array]:
    """The best 2 N continuations of N answers: parent, token and summed score, each [B, 2 N].

    From logits [B * N, V] and the answers' scores [B, N]. First the best of each answer, then of
    all: that sorts few numbers, and the vocabulary keeps an axis that devices can split.
    """
    batch, num_beams = scores.shape
    best, tokens = jax.lax.top_k(
        jnp.where(allowed, logits, -jnp.inf), min(2 * num_beams, logits.shape[-1])
    )
    log_probabilities = best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    each = best.shape[-1]
    sums = scores[..., None] + log_probabilities.reshape(batch, num_beams, each)
    sums, places = jax.lax.top_k(sums.reshape(batch, -1), 2 * num_beams)
    return places // each, _of_beams(tokens.reshape(batch, -1), places), sums


def _with_ended(ended: Beams, new: Beams) -> Beams:
    """The best num_beams of those that have ended and new ones; -inf marks one that has not."""
    both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), ended, new)
    _, best = jax.lax.top_k(both.beam_scores, ended.beam_scores.shape[1])
    return jax.tree.map(partial(_of_beams, places=best), both)


def _reordered(cache: DecodeCache, parents: Array) -> DecodeCache:
    """The cache of answers [B, N] from that of the ones they continue."""

    def of_parents(keys: Array) -> Array:
        by_prompt = keys.reshape(*parents.shape, *keys.shape[1:])
        return _of_beams(by_prompt, parents).reshape(keys.shape)

    return _with_self_attention(cache, of_parents)


def _with_self_attention(cache: DecodeCache, change: Callable[[Array], Array]) -> DecodeCache:
    layers = tuple(
        dataclasses.replace(
            layer, self_key=change(layer.self_key), self_value=change(layer.self_value)
        )
        for layer in cache.layers
    )
    return dataclasses.replace(cache, layers=layers)


def _of_beams(x: Array, places: Array) -> Array:
    """x[b, places[b]] for every b: [B, n, ...] from x [B, m, ...] and places [B, n] below m."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1)
