"""Search that follows one answer a row: greedy and sampling, with places that are used again.

Rows begin and end on their own. A row that has ended gives its place in the batch to the next
prompt, whose encoder states are ready by then, while the others go on; see `DecodeCache`. R: rows.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from instructrec_jax.decoding.logit_rules import LogitRules, ruled
from instructrec_jax.decoding.prepared import PreparedModel
from instructrec_jax.decoding.sampling import SamplingSettings, draw
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import constrain
from instructrec_jax.model.t5 import T5, DecodeCache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Searches under way, or, as `encoded_rows` makes them, waiting for a place."""

    cache: DecodeCache
    last_tokens: Array  # int32 [R]
    history: Array  # int32 [R, 1 + P + N]: start token, forced prefix, answer; the rest is 0
    lengths: Array  # int32 [R]: tokens of the history that count
    prefix_lengths: Array  # int32 [R]
    token_scores: Array  # float32 [R, N]: natural log-probabilities of the answer's tokens
    row_seeds: Array  # uint32 [R, 2], see `sampling.row_key`
    finished: Array  # bool [R]

    @property
    def new_tokens(self) -> Array:
        """int32 [R]: tokens of each answer."""
        return self.lengths - self.prefix_lengths - 1


@partial(jax.jit, static_argnames=("config", "max_new_tokens"))
def encoded_rows(
    model: PreparedModel,
    tokens: Array,
    segment_ids: Array,
    prefixes: Array,
    prefix_lengths: Array,
    *,
    config: T5Config,
    max_new_tokens: int,
) -> Rows:
    """Prompts [R, S], one a row with segment id 1, padding 0, ready for their first new token.

    `prefixes` int32 [R, P], P at least 1, begin with T5's start token; `prefix_lengths` [R] do not
    count it. Rows of padding alone are finished.
    """
    apply: Callable[..., Any] = partial(T5(config).apply, {"params": model.params})
    batch, longest = prefixes.shape
    cache = apply(
        model.layers,
        apply(tokens, segment_ids, method="encode"),
        segment_ids,
        longest - 1 + max_new_tokens,
        method="start_cache",
    )
    # Prefixes end at the same position, so that the answers begin at the same one.
    starts = longest - 1 - prefix_lengths
    places = jnp.arange(longest) - starts[:, None]
    aligned = jnp.take_along_axis(prefixes, jnp.maximum(places, 0), axis=1)

    def read(n: Array, cache: DecodeCache) -> DecodeCache:
        return apply(model.layers, aligned[:, n], cache, method="decode_step")[1]

    cache = dataclasses.replace(cache, start=starts)
    if longest > 1:
        cache = jax.lax.fori_loop(0, longest - 1, read, cache)
    return Rows(
        cache=cache,
        last_tokens=aligned[:, -1],
        history=jnp.pad(prefixes, ((0, 0), (0, max_new_tokens))),
        lengths=prefix_lengths + 1,
        prefix_lengths=prefix_lengths,
        token_scores=jnp.zeros((batch, max_new_tokens), jnp.float32),
        row_seeds=jnp.zeros((batch, 2), jnp.uint32),
        finished=jnp.all(segment_ids == 0, axis=1),
    )


@jax.jit
def empty_rows(like: Rows) -> Rows:
    """Rows of the same shapes, all of them free."""
    nothing = jax.tree.map(jnp.zeros_like, like)
    return dataclasses.replace(nothing, finished=jnp.ones_like(like.finished))


@partial(jax.jit, donate_argnames="rows")
def with_new_rows(rows: Rows, waiting: Rows, sources: Array, row_seeds: Array) -> Rows:
    """`rows` with some replaced: row n by `waiting`'s row `sources[n]`, -1 leaves it as it is.

    The new rows get `row_seeds` [R, 2]. Their keys and values move to the ring's present places.
    """
    shift = rows.cache.position - waiting.cache.position
    replaced = sources >= 0

    def choose(old: Array, new: Array) -> Array:
        of_row = replaced.reshape(-1, *(1,) * (old.ndim - 1))
        return jnp.where(of_row, new[jnp.maximum(sources, 0)], old)

    def in_place(path: tuple[Any, ...], leaf: Array) -> Array:
        return jnp.roll(leaf, shift, axis=2) if path[-1].name.startswith("self_") else leaf

    cache = dataclasses.replace(
        waiting.cache,
        layers=jax.tree_util.tree_map_with_path(in_place, waiting.cache.layers),
        start=waiting.cache.start + shift,
    )
    # The position is that of all rows.
    cache = dataclasses.replace(cache, position=rows.cache.position)
    new = jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if path[-1].name == "position" else choose(old, new),
        rows,
        dataclasses.replace(waiting, cache=cache),
    )
    seeds = jnp.where(replaced[:, None], row_seeds, rows.row_seeds)
    return dataclasses.replace(new, row_seeds=seeds)


@partial(jax.jit, static_argnames="config", donate_argnames="rows")
def advanced(
    model: PreparedModel,
    rows: Rows,
    stopped: Array,
    *,
    config: T5Config,
    rules: LogitRules,
    sampling: SamplingSettings | None,
    eos_id: Array | int,
    steps: Array | int,
    enough_finished: Array | int,
    allowed: Array | None = None,
) -> Rows:
    """`rows` after `steps` more tokens at most, or when `enough_finished` of them have ended.

    Rows that are `stopped` [R] end before. `allowed` bool [R, V] rules out the other tokens, for
    one step that is. Without `sampling` the likeliest token comes next. Scores are the model's
    log-probabilities among all of its vocabulary, whatever the rules and the temperature are.
    """
    rows = dataclasses.replace(rows, finished=rows.finished | stopped)
    end = rows.cache.position + steps

    def under_way(rows: Rows) -> Array:
        return (rows.cache.position < end) & (jnp.sum(rows.finished) < enough_finished)

    def step(rows: Rows) -> Rows:
        apply: Callable[..., Any] = partial(T5(config).apply, {"params": model.params})
        logits, cache = apply(model.layers, rows.last_tokens, rows.cache, method="decode_step")
        possible = ruled(
            rules,
            logits,
            history=rows.history,
            lengths=rows.lengths,
            new_tokens=rows.new_tokens,
            eos_id=eos_id,
        )
        if allowed is not None:
            possible = jnp.where(allowed, possible, -jnp.inf)
        if sampling is None:
            chosen = jnp.argmax(possible, axis=-1).astype(jnp.int32)
        else:
            chosen = draw(sampling, possible, rows.row_seeds, rows.new_tokens)
        chosen_logits = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
        return _with_tokens(
            dataclasses.replace(rows, cache=cache),
            chosen,
            chosen_logits - jax.nn.logsumexp(logits, axis=-1),
            eos_id=eos_id,
        )

    rows = jax.lax.while_loop(under_way, step, rows)
    return dataclasses.replace(
        rows,
        history=constrain(rows.history, None, None),
        lengths=constrain(rows.lengths, None),
        token_scores=constrain(rows.token_scores, None, None),
        finished=constrain(rows.finished, None),
    )


def _with_tokens(rows: Rows, chosen: Array, scores: Array, *, eos_id: Array | int) -> Rows:
    """The rows that are not finished with one more token each [R]."""
    count = jnp.arange(rows.lengths.shape[0])
    # Beyond the array, and so left out, where a row is finished.
    room, longest = rows.history.shape[1], rows.token_scores.shape[1]
    places = jnp.where(rows.finished, room, rows.lengths)
    score_places = jnp.where(rows.finished, longest, rows.new_tokens)
    full = rows.new_tokens + 1 >= longest
    return dataclasses.replace(
        rows,
        last_tokens=jnp.where(rows.finished, 0, chosen),
        history=rows.history.at[count, places].set(chosen, mode="drop"),
        lengths=rows.lengths + ~rows.finished,
        token_scores=rows.token_scores.at[count, score_places].set(scores, mode="drop"),
        finished=rows.finished | (chosen == eos_id) | full,
    )
