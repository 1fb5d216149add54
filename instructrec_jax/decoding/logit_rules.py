"""Rules that change which tokens may come next, the same for greedy, sampling and beam search.

Pure functions of the logits and of what a row holds so far: T5's start token (id 0), the forced
prefix, and the answer. The start token counts in all of them, as in transformers, whose processors
of the same names they equal. R: rows, V: vocabulary, L: room for tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from instructrec_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogitRules:
    """Which rules hold; None leaves one out. Values compile nothing new, the n of n-grams does.

    ConfigError: a penalty or n that makes no sense.
    """

    min_new_tokens: Array | int = 0  # tokens of an answer before its eos, the prefix not counted
    # Logits of tokens that a row holds are divided by this where positive, else multiplied (Keskar
    # et al. 2019, arXiv 1909.05858). Above 1: fewer repetitions.
    repetition_penalty: Array | float | None = None
    # int32 [words, longest]: token ids of texts that no answer may hold, -1 before shorter ones.
    bad_words: Array | np.ndarray | None = None
    # No run of so many tokens comes twice in a row's start token, prefix and answer. 0: no rule.
    no_repeat_ngram_size: int = field(default=0, metadata={"static": True})

    def check(self) -> None:
        """ConfigError: a penalty or n that makes no sense."""
        penalty = self.repetition_penalty
        if penalty is not None and not 0.0 < float(penalty) < float("inf"):
            raise ConfigError(f"repetition_penalty must be a number above 0, not {penalty}")
        if self.no_repeat_ngram_size < 0:
            raise ConfigError(
                f"no_repeat_ngram_size must be 0 or more, not {self.no_repeat_ngram_size}"
            )


def bad_word_table(words: Sequence[Sequence[int]], *, eos_id: int) -> np.ndarray | None:
    """`LogitRules.bad_words` of token ids; None where there are none. A lone eos is no bad word."""
    words = [word for word in words if word and list(word) != [eos_id]]
    if not words:
        return None
    longest = max(map(len, words))
    table = np.full((len(words), longest), -1, np.int32)
    for row, word in zip(table, words, strict=True):
        row[longest - len(word) :] = word
    return table


def ruled(
    rules: LogitRules,
    logits: Array,
    *,
    history: Array,
    lengths: Array,
    new_tokens: Array,
    eos_id: Array | int,
) -> Array:
    """Logits [R, V] by all rules, -inf where a token is ruled out.

    From logits or log-probabilities [R, V], tokens so far [R, L] of which `lengths` [R] count, and
    the number of those that are the answer's, `new_tokens` [R].
    """
    if rules.repetition_penalty is not None:
        logits = penalised(logits, history, lengths, rules.repetition_penalty)
    if rules.no_repeat_ngram_size:
        repeats = repeating(logits, history, lengths, rules.no_repeat_ngram_size)
        logits = jnp.where(repeats, -jnp.inf, logits)
    if rules.bad_words is not None:
        bad = completing(logits, history, lengths, jnp.asarray(rules.bad_words))
        logits = jnp.where(bad, -jnp.inf, logits)
    is_eos = jnp.arange(logits.shape[-1]) == eos_id
    too_early = (new_tokens < rules.min_new_tokens)[:, None]
    return jnp.where(is_eos & too_early, -jnp.inf, logits)


def penalised(logits: Array, history: Array, lengths: Array, penalty: Array | float) -> Array:
    """Logits [R, V], those of tokens that a row holds made less likely by the penalty."""
    present = jnp.arange(history.shape[1]) < lengths[:, None]
    seen = _marked(logits, history, present)
    worse = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, worse, logits)


def repeating(logits: Array, history: Array, lengths: Array, n: int) -> Array:
    """bool [R, V]: tokens that would make a run of n tokens that the row already holds."""
    rows, room = history.shape
    if room < n:
        return jnp.zeros(logits.shape, bool)
    # The last n - 1 tokens against those that stand at each place.
    last = _last(history, lengths, n - 1)
    starts = room - n + 1
    same = jnp.ones((rows, starts), bool)
    for offset in range(n - 1):
        same &= history[:, offset : offset + starts] == last[:, offset : offset + 1]
    complete = jnp.arange(starts) + n <= lengths[:, None]
    return _marked(logits, history[:, n - 1 :], same & complete)


def completing(logits: Array, history: Array, lengths: Array, words: Array) -> Array:
    """bool [R, V]: tokens that would complete one of the words [words, longest], -1 in front."""
    before = words[:, :-1]
    last = _last(history, lengths, before.shape[1])
    matches = jnp.all((before == -1) | (last[:, None] == before), axis=-1)
    ends = jnp.broadcast_to(words[:, -1], matches.shape)
    return _marked(logits, ends, matches)


def _last(history: Array, lengths: Array, count: int) -> Array:
    """int32 [R, count]: each row's last tokens, -2 (no token at all) where it has fewer."""
    places = lengths[:, None] - count + jnp.arange(count)
    tokens = jnp.take_along_axis(history, jnp.maximum(places, 0), axis=1)
    return jnp.where(places >= 0, tokens, -2)


def _marked(like: Array, tokens: Array, where: Array) -> Array:
    """bool [R, V]: the tokens [R, n] of each row for which `where` [R, n] holds."""
    rows, size = like.shape
    places = jnp.where(where, tokens, size)
    nothing = jnp.zeros((rows, size), bool)
    return nothing.at[jnp.arange(rows)[:, None], places].set(True, mode="drop")
