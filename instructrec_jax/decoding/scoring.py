"""How probable the model finds given answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from instructrec_jax.decoding.batching import (
    TextTokenizer,
    cut,
    encode_texts,
    grouped_by_shape,
    length_bucket,
    padded,
    rows_in_batch,
)
from instructrec_jax.decoding.prepared import inference_config
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import constrain
from instructrec_jax.model.t5 import T5

# Target places whose logits, [B, 16, V] float32, are alive at once.
_LOGITS_CHUNK = 16


@dataclass(frozen=True)
class Score:
    """The natural log-probability of one target given its text."""

    logprob: float  # summed: minus the sequence's NLL
    token_logprobs: list[float]  # of each token of the target, eos included
    truncated: bool = False  # the end of the text did not fit and was not read


def score(
    params: Any,
    config: T5Config,
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    targets: Sequence[str | Sequence[int]],
    *,
    batch_size: int,
    encoder_length: int,
    parse_sentinels: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Score]:
    """log p(target | text) of each pair, in order; targets of any length are scored whole.

    A target, like a text, may be given as token ids, which are scored as they are: no eos is added.
    The arguments are those of `generate`, and the same holds for batches, mesh and processes.
    """
    config = inference_config(config)
    whole = encode_texts(tokenizer, texts, parse_sentinels=parse_sentinels)
    encoded = [cut(row, max_length=encoder_length, eos_id=tokenizer.eos_id) for row in whole]
    answers = encode_texts(tokenizer, targets, parse_sentinels=parse_sentinels)
    shapes = [
        (length_bucket(len(text), longest=encoder_length), length_bucket(len(answer)))
        for text, answer in zip(encoded, answers, strict=True)
    ]
    rows = rows_in_batch(batch_size, len(texts))
    scores: dict[int, Score] = {}
    for (encoder_bucket, decoder_bucket), places in grouped_by_shape(shapes, batch_size=rows):
        tokens, segment_ids = padded([encoded[place] for place in places], (rows, encoder_bucket))
        target_tokens, target_mask = padded(
            [answers[place] for place in places], (rows, decoder_bucket)
        )
        logprobs = np.asarray(
            target_log_probabilities(
                params, tokens, segment_ids, target_tokens, target_mask, config=config
            )
        )
        for row, place in enumerate(places):
            of_target = logprobs[row, : len(answers[place])]
            scores[place] = Score(
                logprob=float(of_target.sum(dtype=np.float64)),
                token_logprobs=of_target.tolist(),
                truncated=len(whole[place]) > encoder_length,
            )
        if progress is not None:
            progress(len(scores))
    return [scores[place] for place in range(len(texts))]


@partial(jax.jit, static_argnames="config")
def target_log_probabilities(
    params: Any,
    tokens: Array,
    segment_ids: Array,
    target_tokens: Array,
    target_mask: Array,
    *,
    config: T5Config,
) -> Array:
    """float32 [B, T]: log p of each target token given the text and the tokens before it.

    From texts [B, S] and targets [B, T], one a row with mask 1, padding 0, which gets a number
    without meaning. T is a multiple of 16. The result is whole on every device.
    """
    apply: Callable[..., Any] = T5(config).apply
    encoded = apply({"params": params}, tokens, segment_ids, method="encode")
    return encoded_target_log_probabilities(
        params, encoded, segment_ids, target_tokens, target_mask, config=config
    )


def encoded_target_log_probabilities(
    params: Any,
    encoded: Array,
    segment_ids: Array,
    target_tokens: Array,
    target_mask: Array,
    *,
    config: T5Config,
) -> Array:
    """`target_log_probabilities` of texts that the encoder has read, [B, S, D]."""
    apply: Callable[..., Any] = partial(T5(config).apply, {"params": params})
    hidden = apply(
        jnp.pad(target_tokens[:, :-1], ((0, 0), (1, 0))),
        encoded,
        target_mask,
        segment_ids,
        method="decode",
    )

    def of_chunk(start: Array) -> Array:
        chunk = jax.lax.dynamic_slice_in_dim(hidden, start, _LOGITS_CHUNK, axis=1)
        chosen = jax.lax.dynamic_slice_in_dim(target_tokens, start, _LOGITS_CHUNK, axis=1)
        logits = apply(chunk, method="logits")
        chosen_logits = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
        return chosen_logits - jax.nn.logsumexp(logits, axis=-1)

    starts = jnp.arange(0, target_tokens.shape[1], _LOGITS_CHUNK)
    chunks = jax.lax.map(of_chunk, starts)
    return constrain(jnp.moveaxis(chunks, 0, 1).reshape(target_tokens.shape), None, None)
