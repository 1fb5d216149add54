"""Beam search with a key and value cache, its answers and scores those of transformers 5.

The search keeps two lists of `num_beams` answers for each prompt: those under way, by their summed
log-probability, and those that have ended, by that sum divided by length^length_penalty (Wu et al.
2016, arXiv 1609.08144, without their constant 5). The 2 * num_beams best continuations of the
answers under way are the candidates of a step. Those that end with eos leave the search, and of
these only the ones among the best num_beams enter the list of the ended.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from instructrec_jax.decoding.beam_settings import BeamSettings
from instructrec_jax.decoding.diverse import times_taken, with_groups
from instructrec_jax.decoding.guides import Guide
from instructrec_jax.decoding.logit_rules import LogitRules, ruled
from instructrec_jax.decoding.prepared import PreparedModel, prepared_model
from instructrec_jax.decoding.rows import Rows, encoded_rows
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import constrain
from instructrec_jax.model.t5 import T5, DecodeCache


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
    new_tokens: Array  # int32 []: of the answers under way
    tokens: Array  # int32 [B, N, max_new_tokens]: of the answers under way
    scores: Array  # float32 [B, N]: theirs, descending; -inf where there is none
    ended: Beams
    open: Array  # bool [B]: an answer under way may still become one of the best


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Candidates:
    """The best 2 N continuations of a prompt's N answers, the best first."""

    parents: Array  # int32 [B, 2 N]: the answer that each continues
    tokens: Array  # int32 [B, 2 N]
    scores: Array  # float32 [B, 2 N]: summed


# Whether an answer of these tokens, the last of which is new, ends with it.
Ends = Callable[[int, list[int]], bool]


def beam_search(
    params: Any,
    tokens: Array | np.ndarray,
    segment_ids: Array | np.ndarray,
    *,
    config: T5Config,
    settings: BeamSettings,
    max_new_tokens: int,
    eos_id: int,
    rules: LogitRules | None = None,
    prefixes: np.ndarray | None = None,
    prefix_lengths: np.ndarray | None = None,
    guides: Sequence[Guide] | None = None,
    ends: Ends | None = None,
) -> Beams:
    """The best `settings.num_beams` answers to each prompt, whole on every device.

    From prompts [B, S], one a row with segment id 1, padding 0; rows of padding alone stay empty.
    Log-probabilities are those of the whole vocabulary, also where a rule or guide forbids what
    would be likelier; as in transformers a repetition penalty changes them. Ends as soon as the
    searches of all rows have, and no row can tell which others were beside it.

    Args:
      params: float32 parameters, or what `prepared_model` makes of them.
      rules: see `LogitRules`; none by default.
      prefixes: int32 [B, P] of T5's start token and the tokens that answers go on from; they
        belong neither to the answers nor to their scores.
      prefix_lengths: int32 [B], the start token not counted.
      guides: one for each prompt that is not padding: what its answers may be.
      ends: called with a row and an answer's tokens: whether it ends there, as it does with eos.

    Raises:
      ConfigError: see `BeamSettings.check`.
    """
    settings.check(max_new_tokens=max_new_tokens, vocabulary_size=config.vocabulary_size)
    model, config = prepared_model(params, config)
    batch = tokens.shape[0]
    if prefixes is None or prefix_lengths is None:
        prefixes, prefix_lengths = np.zeros((batch, 1), np.int32), np.zeros(batch, np.int32)
    rows = encoded_rows(
        model,
        tokens,
        segment_ids,
        prefixes,
        prefix_lengths,
        config=config,
        max_new_tokens=max_new_tokens,
    )
    divisors = settings.length_divisors(max_new_tokens)
    to_the_end = settings.early_stopping == "never" and settings.length_penalty > 0
    limits = _Limits(
        rules=LogitRules() if rules is None else rules,
        divisors=divisors,
        hoped_divisors=np.full_like(divisors, divisors[-1]) if to_the_end else divisors,
        stop_when_full=settings.early_stopping is True,
        diversity_penalty=settings.diversity_penalty,
        eos_id=eos_id,
    )
    groups = settings.num_beam_groups
    sizes: _Sizes = {"config": config, "groups": groups, "num_beams": settings.num_beams // groups}
    if guides is None and ends is None:
        return _beam_search(model, rows, limits, **sizes)
    by_group = None if guides is None else [guide for guide in guides for _ in range(groups)]
    return _guided_search(model, rows, limits, **sizes, guides=by_group, ends=ends)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Limits:
    """What a search is told; compiled once for all values."""

    rules: LogitRules
    divisors: Array | np.ndarray  # float32 [max_new_tokens]: of the lengths 1, 2, ...
    hoped_divisors: Array | np.ndarray  # those by which an answer under way is thought to end
    stop_when_full: Array | bool
    diversity_penalty: Array | float
    eos_id: Array | int


class _Sizes(TypedDict):
    """What a search is compiled for."""

    config: T5Config
    groups: int
    num_beams: int  # of a group


@partial(jax.jit, static_argnames=("config", "groups", "num_beams"))
def _beam_search(
    model: PreparedModel,
    rows: Rows,
    limits: _Limits,
    *,
    config: T5Config,
    groups: int,
    num_beams: int,
) -> Beams:
    """A whole search on the devices."""

    def under_way(search: _Search) -> Array:
        return (search.new_tokens < search.tokens.shape[-1]) & jnp.any(search.open)

    def step(search: _Search) -> _Search:
        search, candidates = _proposed(
            model, search, rows, limits, None, config=config, groups=groups
        )
        return _advanced(search, candidates, limits, candidates.tokens == limits.eos_id)[0]

    rows = with_groups(rows, groups)
    search = _start(rows, num_beams=num_beams)
    return _whole(_best_of_groups(jax.lax.while_loop(under_way, step, search).ended, groups))


def _guided_search(
    model: PreparedModel,
    rows: Rows,
    limits: _Limits,
    *,
    config: T5Config,
    groups: int,
    num_beams: int,
    guides: Sequence[Guide] | None,
    ends: Ends | None,
) -> Beams:
    """A search whose tokens the host looks at one by one, with a guide for each group."""
    rows = _with_groups_jit(rows, groups)
    search = _start_jit(rows, num_beams=num_beams)
    prompts, max_new_tokens = search.tokens.shape[0], search.tokens.shape[-1]
    guides = [] if guides is None else guides
    states = [[guide.start()] * num_beams for guide in guides]
    everything = np.ones(config.vocabulary_size, bool)
    for length in range(max_new_tokens):
        if not np.asarray(search.open).any():
            break
        # By row and beam; an answer that is ruled out has no state, and no token either.
        allowed = None
        if guides:
            allowed = np.broadcast_to(everything, (prompts, num_beams, len(everything))).copy()
            for row, guide in enumerate(guides):
                for beam, state in enumerate(states[row]):
                    allowed[row, beam] = state is not None and guide.allowed(state)
            allowed = allowed.reshape(-1, len(everything))
        search, candidates = _proposed_jit(
            model, search, rows, limits, allowed, config=config, groups=groups
        )
        parents, chosen, scores = (
            np.asarray(leaf) for leaf in (candidates.parents, candidates.tokens, candidates.scores)
        )
        over = chosen == limits.eos_id
        if ends is not None:
            before = np.asarray(search.tokens)
            looked_at = np.isfinite(scores) & ~over & np.asarray(search.open)[:, None]
            for row, rank in np.argwhere(looked_at):
                answer = before[row, parents[row, rank], :length].tolist()
                over[row, rank] = ends(int(row) // groups, [*answer, int(chosen[row, rank])])
        search, kept = _advanced_jit(search, candidates, limits, over)
        for row, places in enumerate(np.asarray(kept)[: len(guides)]):
            states[row] = [
                guides[row].next(states[row][parents[row, place]], int(chosen[row, place]))
                if np.isfinite(scores[row, place]) and not over[row, place]
                else None
                for place in places
            ]
    return _best_of_groups_jit(search.ended, groups)


def _start(rows: Rows, *, num_beams: int) -> _Search:
    """Before the first new token: one answer to each prompt, its other beams ruled out."""
    batch, max_new_tokens = rows.token_scores.shape

    def for_beams(leaf: Array) -> Array:
        return jnp.repeat(leaf, num_beams, axis=0)

    cache = _with_self_attention(
        rows.cache, lambda keys: constrain(for_beams(keys), "batch", "heads", None, None)
    )
    tokens = _whole(jnp.zeros((batch, num_beams, max_new_tokens), jnp.int32))
    nothing = jnp.full((batch, num_beams), -jnp.inf, jnp.float32)
    return _Search(
        cache=dataclasses.replace(cache, start=for_beams(cache.start)),
        last_tokens=for_beams(rows.last_tokens),
        new_tokens=jnp.zeros((), jnp.int32),
        tokens=tokens,
        scores=nothing.at[:, 0].set(0.0),
        ended=Beams(tokens, jnp.zeros((batch, num_beams), jnp.int32), nothing, nothing),
        open=_whole(~rows.finished),
    )


def _proposed(
    model: PreparedModel,
    search: _Search,
    rows: Rows,
    limits: _Limits,
    allowed: Array | np.ndarray | None,
    *,
    config: T5Config,
    groups: int,
) -> tuple[_Search, _Candidates]:
    """The search with one more place in its cache, and what may stand there.

    `rows` are what it started from. `allowed` bool [B * N, V] rules out the other tokens.
    """
    apply: Callable[..., Any] = partial(T5(config).apply, {"params": model.params})
    logits, cache = apply(model.layers, search.last_tokens, search.cache, method="decode_step")
    log_probabilities = logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    prompts, num_beams, _ = search.tokens.shape
    lengths = jnp.repeat(rows.lengths, num_beams)
    history = _history(rows, search.tokens)

    def of_group(x: Array | np.ndarray, group: int) -> Array:
        by_group = jnp.reshape(x, (prompts // groups, groups, -1, *x.shape[1:]))[:, group]
        return by_group.reshape(-1, *x.shape[1:])

    taken: Array | float = 0.0
    found = []
    for group in range(groups):
        shunned = jnp.repeat(taken, num_beams, axis=0) if group else taken
        own_lengths = of_group(lengths, group)
        possible = ruled(
            limits.rules,
            of_group(log_probabilities, group) - limits.diversity_penalty * shunned,
            history=of_group(history, group),
            lengths=own_lengths + search.new_tokens,
            new_tokens=jnp.full_like(own_lengths, search.new_tokens),
            eos_id=limits.eos_id,
        )
        if allowed is not None:
            possible = jnp.where(of_group(allowed, group), possible, -jnp.inf)
        candidates = _candidates(possible, of_group(search.scores, group))
        found.append(candidates)
        going_on = (candidates.tokens != limits.eos_id) & of_group(search.open, group)[:, None]
        best, kept = jax.lax.top_k(jnp.where(going_on, candidates.scores, -jnp.inf), num_beams)
        chosen = _of_beams(candidates.tokens, kept)
        taken += times_taken(chosen, best, vocabulary_size=possible.shape[-1])
    together = jax.tree.map(lambda *of: jnp.stack(of, axis=1).reshape(prompts, -1), *found)
    return dataclasses.replace(search, cache=cache), _whole(together)


def _history(rows: Rows, tokens: Array) -> Array:
    """int32 [B * N, L]: start token, prefix and answer of each beam."""
    batch, num_beams, longest = tokens.shape
    room = rows.history.shape[1]
    places = jnp.arange(room) - rows.lengths[:, None]  # of the answer's tokens
    answers = jnp.take_along_axis(tokens, jnp.clip(places, 0, longest - 1)[:, None], axis=-1)
    history = jnp.where((places >= 0)[:, None], answers, rows.history[:, None])
    return history.reshape(batch * num_beams, room)


def _advanced(
    search: _Search, candidates: _Candidates, limits: _Limits, over: Array
) -> tuple[_Search, Array]:
    """The search after a step, and which candidates its answers are: int32 [B, N].

    `over` bool [B, 2 N]: candidates that end, by eos or otherwise.
    """
    num_beams, max_new_tokens = search.tokens.shape[1:]
    chosen, scores = candidates.tokens, candidates.scores
    tokens = _of_beams(search.tokens, candidates.parents).at[:, :, search.new_tokens].set(chosen)
    length = search.new_tokens + 1
    ends = (over | (length == max_new_tokens)) & search.open[:, None]
    candidates_ended = Beams(
        tokens=tokens,
        lengths=jnp.full_like(chosen, length),
        scores=scores,
        beam_scores=jnp.where(ends, scores / limits.divisors[length - 1], -jnp.inf),
    )
    ended = _with_ended(search.ended, jax.tree.map(lambda x: x[:, :num_beams], candidates_ended))
    running_scores, kept = jax.lax.top_k(jnp.where(over, -jnp.inf, scores), num_beams)
    worst = ended.beam_scores[:, -1]
    improvable = running_scores[:, 0] / limits.hoped_divisors[length - 1] > worst
    full = worst > -jnp.inf
    search = _Search(
        cache=_reordered(search.cache, _of_beams(candidates.parents, kept)),
        last_tokens=_of_beams(chosen, kept).reshape(-1),
        new_tokens=length,
        tokens=_whole(_of_beams(tokens, kept)),
        scores=running_scores,
        ended=_whole(ended),
        open=_whole(search.open & improvable & ~(full & limits.stop_when_full)),
    )
    return search, _whole(kept)


def _best_of_groups(ended: Beams, groups: int) -> Beams:
    """The answers [B, N] of all groups, the best first, of those of each [B * G, N / G]."""
    if groups == 1:
        return ended
    together = jax.tree.map(
        lambda leaf: leaf.reshape(-1, groups * leaf.shape[1], *leaf.shape[2:]), ended
    )
    _, best = jax.lax.top_k(together.beam_scores, together.beam_scores.shape[1])
    return jax.tree.map(partial(_of_beams, places=best), together)


def _whole(tree: Any) -> Any:
    """Whole on every device, so that every process can look at it."""
    return jax.tree.map(lambda leaf: constrain(leaf, *(None,) * leaf.ndim), tree)


_with_groups_jit = jax.jit(with_groups, static_argnums=1)
_best_of_groups_jit = jax.jit(_best_of_groups, static_argnums=1)
_start_jit = jax.jit(_start, static_argnames="num_beams")
_proposed_jit = jax.jit(_proposed, static_argnames=("config", "groups"), donate_argnums=1)
_advanced_jit = jax.jit(_advanced, donate_argnums=0)


def _candidates(log_probabilities: Array, scores: Array) -> _Candidates:
    """The best 2 N continuations of N answers, of their log-probabilities [B * N, V].

    First the best of each answer, then of all: that sorts few numbers, and the vocabulary keeps an
    axis that devices can split.
    """
    batch, num_beams = scores.shape
    best, tokens = jax.lax.top_k(log_probabilities, min(2 * num_beams, log_probabilities.shape[-1]))
    each = best.shape[-1]
    sums = scores[..., None] + best.reshape(batch, num_beams, each)
    sums, places = jax.lax.top_k(sums.reshape(batch, -1), 2 * num_beams)
    return _Candidates(places // each, _of_beams(tokens.reshape(batch, -1), places), sums)


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
