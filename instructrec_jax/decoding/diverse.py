"""Diverse beam search (Vijayakumar et al. 2016, arXiv 1610.02424), as transformers' group beam
search does it.

The beams of a prompt are G groups, each a beam search of its own. At every step the groups choose
one after another, and a token costs a later group `diversity_penalty` for each beam of the earlier
ones that has just taken it (their Hamming diversity). Scores hold what was paid.

To the rest of the search a group is a prompt: B * G of them, the groups of a prompt on end.
"""

import jax
import jax.numpy as jnp
from jax import Array

from instructrec_jax.decoding.rows import Rows


def with_groups(rows: Rows, groups: int) -> Rows:
    """`rows` with one for each group; the encoder's side of the cache still has one a prompt."""
    if groups == 1:
        return rows
    cross = ("cross_key", "cross_value", "encoder_segment_ids", "position")

    def repeated(path: tuple[jax.tree_util.GetAttrKey, ...], leaf: Array) -> Array:
        return leaf if path[-1].name in cross else jnp.repeat(leaf, groups, axis=0)

    return jax.tree_util.tree_map_with_path(repeated, rows)


def times_taken(chosen: Array, scores: Array, *, vocabulary_size: int) -> Array:
    """float32 [B, V]: how many beams took each token.

    Of the tokens [B, N] that a group's beams took; those with the score -inf are no beams.
    """
    batch = jnp.arange(chosen.shape[0])[:, None]
    counted = jnp.isfinite(scores).astype(jnp.float32)
    return jnp.zeros((chosen.shape[0], vocabulary_size)).at[batch, chosen].add(counted)
