"""Which of the given options answers a question, by how probable the model finds each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
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
from instructrec_jax.decoding.prompts import CONTENT_FREE
from instructrec_jax.decoding.scoring import encoded_target_log_probabilities
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5

ChooseBy = Literal["sum", "mean", "calibrated"]
CHOOSE_BY: tuple[ChooseBy, ...] = ("sum", "mean", "calibrated")

# Target tokens scored at once for each question of a batch: short options, more of them.
_TOKENS_PER_QUESTION = 64


@dataclass(frozen=True)
class Choice:
    """Natural log-probabilities of one question's options, each list in the options' order.

    A sum over tokens favours short options, a mean long ones. The calibrated one is the sum less
    the option's sum given a content-free question: what the question itself tells (Zhao et al.
    2021, arXiv 2102.09690; domain-conditional PMI of Holtzman et al. 2021, arXiv 2104.08315).
    """

    sum: list[float]
    mean: list[float]  # a token, eos included
    calibrated: list[float]
    tokens: int  # of all options
    truncated: bool = False  # the end of the question did not fit and was not read

    def best(self, by: ChooseBy) -> int:
        """The place of the option whose number is largest, the first of equal ones."""
        numbers: list[float] = getattr(self, by)
        return numbers.index(max(numbers))


def choose(
    params: Any,
    config: T5Config,
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    options: Sequence[Sequence[str | Sequence[int]]],
    *,
    batch_size: int,
    encoder_length: int,
    content_free: Sequence[str | Sequence[int]] | None = None,
    parse_sentinels: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Choice]:
    """How probable each option is as the answer to its text, texts in order.

    The encoder runs once for each text, whatever the number of its options. The arguments are
    those of `score`, and the same holds for batches, mesh and processes.

    Args:
      params: float32 parameters of the model.
      options: of each text, at least one, in any number; texts, or token ids as they are.
      content_free: of each text, the question with nothing to answer; "N/A" by default. Equal ones
        are scored once for each of their options.
    """
    given = [CONTENT_FREE] * len(texts) if content_free is None else content_free
    encode = partial(encode_texts, tokenizer, parse_sentinels=parse_sentinels)
    whole, free = encode(texts), encode(given)
    flat = iter(encode([option for of_text in options for option in of_text]))
    answers = [[tuple(next(flat)) for _ in of_text] for of_text in options]
    shorten = partial(cut, max_length=encoder_length, eos_id=tokenizer.eos_id)
    # Equal questions are asked once: content-free ones seldom differ.
    asked: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    questions, frees = ([tuple(shorten(row)) for row in rows] for rows in (whole, free))
    for rows in (questions, frees):
        for question, of_text in zip(rows, answers, strict=True):
            asked.setdefault(question, {}).update(dict.fromkeys(of_text, 0.0))

    def tell(done: int) -> None:
        if progress is not None:
            progress(done * len(texts) // len(asked))

    _fill_in(
        asked,
        params,
        inference_config(config),
        batch_size=batch_size,
        encoder_length=encoder_length,
        progress=tell,
    )
    choices = []
    for place, (question, empty, of_text) in enumerate(zip(questions, frees, answers, strict=True)):
        sums = [asked[question][answer] for answer in of_text]
        choices.append(
            Choice(
                sum=sums,
                mean=[total / len(answer) for total, answer in zip(sums, of_text, strict=True)],
                calibrated=[
                    total - asked[empty][answer]
                    for total, answer in zip(sums, of_text, strict=True)
                ],
                tokens=sum(map(len, of_text)),
                truncated=len(whole[place]) > encoder_length,
            )
        )
    return choices


def _fill_in(
    asked: dict[tuple[int, ...], dict[tuple[int, ...], float]],
    params: Any,
    config: T5Config,
    *,
    batch_size: int,
    encoder_length: int,
    progress: Callable[[int], None],
) -> None:
    """Writes the summed log-probability of each answer of each question."""
    questions = list(asked)
    rows = rows_in_batch(batch_size, len(questions))
    shapes = [(length_bucket(len(question), longest=encoder_length),) for question in questions]
    done = 0
    for (length,), places in grouped_by_shape(shapes, batch_size=rows):
        batch = [questions[place] for place in places]
        tokens, segment_ids = padded(batch, (rows, length))
        encoded = _encoded(params, tokens, segment_ids, config=config)
        pairs = [(row, answer) for row, question in enumerate(batch) for answer in asked[question]]
        buckets = [(length_bucket(len(answer)),) for _, answer in pairs]
        for (bucket,), chosen in _grouped_by_tokens(buckets, questions=rows):
            size = _answers_at_once(bucket, questions=rows)
            targets, mask = padded([pairs[n][1] for n in chosen], (size, bucket))
            owners = np.zeros(size, np.int32)
            owners[: len(chosen)] = [pairs[n][0] for n in chosen]
            logprobs = np.asarray(
                _of_answers(params, encoded, segment_ids, owners, targets, mask, config=config)
            )
            for row, n in enumerate(chosen):
                owner, answer = pairs[n]
                total = logprobs[row, : len(answer)].sum(dtype=np.float64)
                asked[batch[owner]][answer] = float(total)
        done += len(batch)
        progress(done)


def _answers_at_once(bucket: int, *, questions: int) -> int:
    """A number of answers that does not depend on how many options questions have."""
    return questions * max(1, _TOKENS_PER_QUESTION // bucket)


def _grouped_by_tokens(
    buckets: Sequence[tuple[int, ...]], *, questions: int
) -> list[tuple[tuple[int, ...], list[int]]]:
    groups = []
    for shape, places in grouped_by_shape(buckets, batch_size=max(len(buckets), 1)):
        size = _answers_at_once(shape[0], questions=questions)
        groups += [(shape, places[n : n + size]) for n in range(0, len(places), size)]
    return groups


@partial(jax.jit, static_argnames="config")
def _encoded(params: Any, tokens: Array, segment_ids: Array, *, config: T5Config) -> Array:
    apply: Callable[..., Any] = T5(config).apply
    return apply({"params": params}, tokens, segment_ids, method="encode")


@partial(jax.jit, static_argnames="config")
def _of_answers(
    params: Any,
    encoded: Array,
    segment_ids: Array,
    owners: Array,
    targets: Array,
    mask: Array,
    *,
    config: T5Config,
) -> Array:
    """float32 [A, T]: log-probabilities of answers [A, T], each to the question `owners` [A]."""
    return encoded_target_log_probabilities(
        params, encoded[owners], segment_ids[owners], targets, mask, config=config
    )
