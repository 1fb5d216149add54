"""Texts to answers by search with a key and value cache; greedy search itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from instructrec_jax.decoding.batching import (
    TextTokenizer,
    cut,
    encode_texts,
    grouped_by_shape,
    inference_config,
    inference_model,
    length_bucket,
    padded,
    rows_in_batch,
)
from instructrec_jax.decoding.beam import Beams, BeamSettings, beam_search
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.layers import constrain
from instructrec_jax.model.t5 import T5, DecodeCache, decoder_layers


@dataclass(frozen=True)
class Generation:
    """One answer."""

    output: str
    output_tokens: list[int]  # as generated, with the eos that ended them
    score: float  # natural log-probability of output_tokens, summed
    stop_reason: Literal["eos", "length"]
    truncated: bool = False  # the end of the prompt did not fit and was not read
    beam_score: float | None = None  # of beam search: score / len(output_tokens)^length_penalty


def generate(
    params: Any,
    config: T5Config,
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    encoder_length: int,
    min_new_tokens: int = 0,
    beams: BeamSettings | None = None,
    parse_sentinels: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The best answer to each text, in order; the arguments are those of `generate_several`."""
    answers = generate_several(
        params,
        config,
        tokenizer,
        texts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        encoder_length=encoder_length,
        min_new_tokens=min_new_tokens,
        beams=beams,
        parse_sentinels=parse_sentinels,
        progress=progress,
    )
    return [best for best, *_ in answers]


def generate_several(
    params: Any,
    config: T5Config,
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    encoder_length: int,
    min_new_tokens: int = 0,
    beams: BeamSettings | None = None,
    parse_sentinels: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[list[Generation]]:
    """The `beams.num_outputs` best answers to each text, the best first; texts in order.

    Without `beams` there is one: the most probable next token after another. The answers do not
    depend on `batch_size` or on the other texts, but for the last bits of the scores. Under
    `jax.set_mesh` the work is split as the mesh and the layout of `params` say; every process
    gives the same texts and gets all answers.

    Args:
      params: float32 parameters of the model.
      config: their config.
      tokenizer: the one that the model was trained with. Rows that pad the embedding are tokens
        too, as in transformers; the tokenizer says how they read.
      texts: encoder texts, see `instructions.example.encoder_text`, or token ids, which the encoder
        reads as they are: no eos is added. They are sorted into few lengths, each compiled once
        and kept for later calls.
      max_new_tokens: tokens of an answer at most, eos included.
      batch_size: texts at once.
      encoder_length: tokens of a text at most, eos included; longer ones lose their end and are
        marked as `truncated`.
      min_new_tokens: tokens of an answer before its eos at least.
      beams: how to search with beams; one beam is the search without them, as in transformers.
      parse_sentinels: "<extra_id_0>" in a text is the sentinel token.
      progress: called after each batch with the number of texts answered so far.
    """
    config = inference_config(config)
    whole = encode_texts(tokenizer, texts, parse_sentinels=parse_sentinels)
    encoded = [cut(row, max_length=encoder_length, eos_id=tokenizer.eos_id) for row in whole]
    shapes = [(length_bucket(len(row), longest=encoder_length),) for row in encoded]
    rows = rows_in_batch(batch_size, len(texts))
    answers: dict[int, list[Generation]] = {}
    for (length,), places in grouped_by_shape(shapes, batch_size=rows):
        tokens, segment_ids = padded([encoded[place] for place in places], (rows, length))
        found = _search(
            params,
            tokens,
            segment_ids,
            beams=beams,
            config=config,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_id=tokenizer.eos_id,
        )
        for row, place in enumerate(places):
            answers[place] = [
                _generation(
                    found,
                    (row, rank),
                    tokenizer,
                    of_beams=beams is not None,
                    truncated=len(whole[place]) > encoder_length,
                )
                for rank in range(1 if beams is None else beams.num_outputs)
            ]
        if progress is not None:
            progress(len(answers))
    return [answers[place] for place in range(len(texts))]


def _search(
    params: Any,
    tokens: np.ndarray,
    segment_ids: np.ndarray,
    *,
    beams: BeamSettings | None,
    max_new_tokens: int,
    **options: Any,
) -> Beams:
    """The answers to a batch, as NumPy arrays."""
    if beams is not None and beams.num_beams > 1:
        return jax.tree.map(
            np.asarray,
            beam_search(
                params,
                tokens,
                segment_ids,
                settings=beams,
                max_new_tokens=max_new_tokens,
                **options,
            ),
        )
    search = greedy_search(params, tokens, segment_ids, max_new_tokens=max_new_tokens, **options)
    output_tokens, lengths, scores = (cast(Any, np.asarray(array)[:, None]) for array in search)
    divisors = np.ones(max_new_tokens) if beams is None else beams.length_divisors(max_new_tokens)
    return Beams(output_tokens, lengths, scores, scores / divisors[lengths - 1])


def _generation(
    found: Beams,
    place: tuple[int, int],
    tokenizer: TextTokenizer,
    *,
    of_beams: bool,
    truncated: bool,
) -> Generation:
    tokens = found.tokens[place][: found.lengths[place]].tolist()
    return Generation(
        output=tokenizer.decode(tokens),
        output_tokens=tokens,
        score=float(found.scores[place]),
        stop_reason="eos" if tokens[-1:] == [tokenizer.eos_id] else "length",
        truncated=truncated,
        beam_score=float(found.beam_scores[place]) if of_beams else None,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """A greedy search under way."""

    cache: DecodeCache
    last_tokens: Array  # int32 [B]
    output_tokens: Array  # int32 [B, max_new_tokens]
    lengths: Array  # int32 [B]
    scores: Array  # float32 [B]
    finished: Array  # bool [B]


@partial(jax.jit, static_argnames=("config", "max_new_tokens"))
def greedy_search(
    params: Any,
    tokens: Array,
    segment_ids: Array,
    *,
    config: T5Config,
    max_new_tokens: int,
    eos_id: Array | int,
    min_new_tokens: Array | int = 0,
) -> tuple[Array, Array, Array]:
    """Output tokens int32 [B, max_new_tokens], their number int32 [B] and scores float32 [B].

    From prompts [B, S], one a row with segment id 1, padding 0; rows of padding alone stay empty.
    The log-probabilities are those of the whole vocabulary, also where an eos before
    `min_new_tokens` others would be likelier than the one chosen. Ends as soon as all rows have.
    The results are whole on every device.
    """
    params, config = inference_model(params, config)
    apply: Callable[..., Any] = partial(T5(config).apply, {"params": params})
    encoded = apply(tokens, segment_ids, method="encode")
    layers = decoder_layers(params)
    batch = tokens.shape[0]
    search = _Search(
        cache=apply(layers, encoded, segment_ids, max_new_tokens, method="start_cache"),
        last_tokens=jnp.zeros(batch, jnp.int32),
        output_tokens=jnp.zeros((batch, max_new_tokens), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        scores=jnp.zeros(batch, jnp.float32),
        finished=jnp.all(segment_ids == 0, axis=1),
    )
    ids = jnp.arange(config.vocabulary_size)

    def under_way(search: _Search) -> Array:
        return (search.cache.position < max_new_tokens) & ~jnp.all(search.finished)

    def step(search: _Search) -> _Search:
        position = search.cache.position
        logits, cache = apply(layers, search.last_tokens, search.cache, method="decode_step")
        allowed = (ids != eos_id) | (position >= min_new_tokens)
        chosen = jnp.argmax(jnp.where(allowed, logits, -jnp.inf), axis=-1).astype(jnp.int32)
        chosen_logits = jnp.take_along_axis(logits, chosen[:, None], axis=-1)[:, 0]
        log_probabilities = chosen_logits - jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.where(search.finished, 0, chosen)
        return _Search(
            cache=cache,
            last_tokens=chosen,
            output_tokens=search.output_tokens.at[:, position].set(chosen),
            lengths=search.lengths + ~search.finished,
            scores=search.scores + jnp.where(search.finished, 0.0, log_probabilities),
            finished=search.finished | (chosen == eos_id),
        )

    search = jax.lax.while_loop(under_way, step, search)
    return (
        constrain(search.output_tokens, None, None),
        constrain(search.lengths, None),
        constrain(search.scores, None),
    )
