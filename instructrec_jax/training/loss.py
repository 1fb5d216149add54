"""Sequence negative log-likelihood of packed targets, summed; never a [B, T, V] one-hot."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array

OBJECTIVES = ("sequences", "tokens")


def summed_nll(
    logits_of: Callable[[Array], Array],
    hidden: Array,
    batch: Mapping[str, Array],
    *,
    label_smoothing: float,
    z_loss: float,
    chunk: int,
    task_count: int = 0,
) -> tuple[Array, dict[str, Array]]:
    """The summed training loss of a batch and the sums that its figures are made of.

    -log p(y | q(x)) = -sum_t log p(y_t | y_<t, q(x)), summed over all sequences of the batch. Label
    smoothing e replaces the target distribution by (1 - e) * target + e / V (Szegedy et al. 2016);
    the z-loss adds z_loss * log(Z)^2 a token, Z the softmax's normaliser (Mesh TensorFlow).

    Args:
      logits_of: [B, t, D] decoder states -> [B, t, V] float32 logits.
      hidden: [B, T, D], final decoder states.
      batch: decoder_target_tokens, decoder_positions, decoder_segment_ids [B, T] int32 and
        decoder_loss_weights [B, T] float32.
      label_smoothing: e above, in [0, 1).
      z_loss: weight of log(Z)^2.
      chunk: target positions whose logits are alive at once; 0 or more than T means all. The
        backward pass computes the logits of a chunk again.
      task_count: above 0, the batch has `decoder_task_ids` [B, T] int32 below it, and sums are also
        made task by task.

    Returns:
      The summed loss (scalar float32), and the sums `nll`, `correct`, `tokens`, `sequences`
      (scalars float32), `nll` without smoothing and z-loss; with tasks also `task_nll`,
      `task_tokens`, `task_sequences` (float32 [task_count]).
    """

    def of_chunk(hidden: Array, targets: Array, weights: Array, *tasks: Array) -> list[Array]:
        loss, nll, correct = _weighted(
            logits_of(hidden), targets, weights, label_smoothing=label_smoothing, z_loss=z_loss
        )
        by_task = [_sum_by_task(nll, ids, task_count) for ids in tasks]
        return [loss.sum(), nll.sum(), correct.sum(), *by_task]

    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    tasks = [batch["decoder_task_ids"]] if task_count else []
    pieces = (hidden, targets, weights, *tasks)
    length = targets.shape[1]
    if chunk <= 0 or chunk >= length:
        totals = of_chunk(*pieces)
    else:
        count = -(-length // chunk)
        padding = count * chunk - length
        chunks = tuple(_split_length(array, count, padding) for array in pieces)
        per_chunk = jax.lax.map(lambda piece: jax.checkpoint(of_chunk)(*piece), chunks)
        totals = [total.sum(axis=0) for total in per_chunk]
    loss, nll, correct, *task_nll = totals
    sums = {"nll": nll, "correct": correct, **_counted(batch, task_count)}
    return loss, {**sums, "task_nll": task_nll[0]} if task_count else sums


def _counted(batch: Mapping[str, Array], task_count: int) -> dict[str, Array]:
    """Target tokens and sequences of a batch, of each task too where there is a `task_count`."""
    weights = batch["decoder_loss_weights"]
    # A sequence whose first target token weighs nothing does not count.
    starts = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0) & (weights > 0)
    counts = {"tokens": weights.sum(), "sequences": jnp.sum(starts, dtype=jnp.float32)}
    if task_count:
        ids = batch["decoder_task_ids"]
        counts["task_tokens"] = _sum_by_task(weights, ids, task_count)
        counts["task_sequences"] = _sum_by_task(starts.astype(jnp.float32), ids, task_count)
    return counts


def normaliser(sums: Mapping[str, Array], objective: str) -> Array:
    """What the summed loss is divided by; at least 1, so that an all-padding batch gives 0.

    "sequences" is the objective of instruction tuning by sequence NLL: the mean over sequences of
    each sequence's summed NLL. "tokens" is the mean over target tokens.
    """
    return jnp.maximum(sums[objective], 1.0)


def _weighted(
    logits: Array, targets: Array, weights: Array, *, label_smoothing: float, z_loss: float
) -> tuple[Array, Array, Array]:
    """float32 [B, t] each, times the weights: loss, NLL and whether the prediction is correct."""
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    # A comparison fuses into the reduction and needs no gather over a sharded vocabulary.
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    is_target = vocabulary == targets[..., None]
    target_logit = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    nll = log_normaliser - target_logit
    loss = nll
    if label_smoothing:
        uniform = log_normaliser - logits.mean(axis=-1)
        loss = (1.0 - label_smoothing) * nll + label_smoothing * uniform
    if z_loss:
        loss = loss + z_loss * jnp.square(log_normaliser)
    correct = target_logit >= logits.max(axis=-1)
    return loss * weights, nll * weights, correct * weights


def _sum_by_task(values: Array, ids: Array, task_count: int) -> Array:
    """float32 [task_count] from values [B, t] and task ids [B, t]; no gradient goes through."""
    return jnp.zeros((task_count,), jnp.float32).at[ids].add(jax.lax.stop_gradient(values))


def _split_length(array: Array, count: int, padding: int) -> Array:
    """[B, T, ...] -> [count, B, chunk, ...], padded with zeros."""
    padded = jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))
    pieces = padded.reshape(array.shape[0], count, -1, *array.shape[2:])
    return jnp.swapaxes(pieces, 0, 1)
