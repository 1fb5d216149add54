"""Texts to answers by search with a key and value cache: greedy, sampling or beams."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from instructrec_jax.decoding.batching import (
    TextTokenizer,
    cut,
    encode_texts,
    grouped_by_shape,
    length_bucket,
    padded,
    rows_in_batch,
)
from instructrec_jax.decoding.beam import Beams, BeamSettings, beam_search
from instructrec_jax.decoding.continuous import (
    Question,
    RowAnswer,
    RowSearch,
    StopReason,
    padded_prefixes,
)
from instructrec_jax.decoding.guides import Guide
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.decoding.prepared import prepared_model
from instructrec_jax.decoding.sampling import SamplingSettings, record_hash
from instructrec_jax.decoding.stops import Stops, continuation
from instructrec_jax.model.config import T5Config


@dataclass(frozen=True)
class Generation:
    """One answer."""

    output: str  # what follows the prefix, and is before a stop string
    output_tokens: list[int]  # as generated, with the eos or the stop string that ended them
    # Natural log-probability of output_tokens, summed; of beam search with a repetition penalty,
    # after that.
    score: float
    # "length": max_new_tokens ran out; "stop": a stop string; "constraint": no token of the
    # vocabulary leads on to an answer that the guide allows.
    stop_reason: StopReason
    truncated: bool = False  # the end of the prompt did not fit and was not read
    beam_score: float | None = None  # of beam search: score / len(output_tokens)^length_penalty


def generate(
    params: Any,
    config: T5Config,
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    **options: Any,
) -> list[Generation]:
    """The best answer to each text, in order; the arguments are those of `generate_several`."""
    answers = generate_several(params, config, tokenizer, texts, **options)
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
    beams: BeamSettings | None = None,
    sampling: SamplingSettings | None = None,
    rules: LogitRules | None = None,
    prefixes: Sequence[str | Sequence[int]] | None = None,
    guides: Sequence[Guide] | None = None,
    stop_strings: Sequence[str] = (),
    ids: Sequence[str | int] | None = None,
    parse_sentinels: bool = False,
    progress: Callable[[int], None] | None = None,
    reader: Callable[[int, list[int]], None] | None = None,
) -> list[list[Generation]]:
    """Answers to each text, the best first; texts in order.

    With `beams` or `sampling` there are `num_outputs` of them, of samples in the order of their
    keys; fewer where beam search with a guide finds no more. Otherwise there is one: the most
    probable next token after another. The answers do not depend on `batch_size` or on the other
    texts, but for the last bits of the scores. Under `jax.set_mesh` the work is split as the mesh
    and the layout of `params` say; every process gives the same texts and gets all answers.

    Args:
      params: float32 parameters of the model, or what `prepared_model` makes of them.
      config: their config.
      tokenizer: the one that the model was trained with. Rows that pad the embedding are tokens
        too, as in transformers; the tokenizer says how they read.
      texts: encoder texts, see `instructions.example.encoder_text`, or token ids, which the encoder
        reads as they are: no eos is added. They are sorted into few lengths, each compiled once
        and kept for later calls.
      max_new_tokens: tokens of an answer at most, eos included.
      batch_size: texts at once. Searches of one row each give the place of an answer that has
        ended to the next text, whatever the others do; beam search goes batch by batch.
      encoder_length: tokens of a text at most, eos included; longer ones lose their end and are
        marked as `truncated`.
      beams: how to search with beams; one beam is the search without them, as in transformers.
      sampling: how to draw tokens; not together with beams.
      rules: which tokens may come next; all of them by default.
      prefixes: for each text, what its answers go on from; no part of output and score.
      guides: for each text, what its answers may be, after the prefix.
      stop_strings: texts that end an answer, which then is what stands before them.
      ids: of the records, for sampling: with the seed they decide the random numbers. The places
        of the texts by default.
      parse_sentinels: "<extra_id_0>" in a text is the sentinel token.
      progress: called with the number of texts answered so far, whenever there are more.
      reader: called with the place of a text and the tokens of its answer so far, as it grows;
        not by beam search.

    Raises:
      ConfigError: settings out of range.
    """
    if beams is not None and sampling is not None:
        raise ValueError("either beams or sampling")
    for settings in (sampling, rules):
        if settings is not None:
            settings.check()
    if beams is not None:
        beams.check(max_new_tokens=max_new_tokens, vocabulary_size=config.vocabulary_size)
    model, config = prepared_model(params, config)
    whole = encode_texts(tokenizer, texts, parse_sentinels=parse_sentinels)
    encoded = [cut(row, max_length=encoder_length, eos_id=tokenizer.eos_id) for row in whole]
    questions = _questions(tokenizer, encoded, prefixes=prefixes, guides=guides, ids=ids)
    longest_prefix = max((len(question.prefix) for question in questions), default=0)
    search = RowSearch(
        model=model,
        config=config,
        rows=rows_in_batch(batch_size, len(texts)),
        prefix_length=length_bucket(longest_prefix) if longest_prefix else 0,
        max_new_tokens=max_new_tokens,
        eos_id=tokenizer.eos_id,
        rules=LogitRules() if rules is None else rules,
        sampling=sampling,
        stops=Stops(tuple(stop_strings), tokenizer) if stop_strings else None,
        reader=reader,
    )
    answers: dict[int, dict[int, Generation]] = {}
    outputs = 1 if sampling is None else sampling.num_outputs
    shapes = [(length_bucket(len(row), longest=encoder_length),) for row in encoded]
    done = 0
    for (length,), places in grouped_by_shape(shapes, batch_size=max(len(texts), 1)):
        of_shape = [questions[place] for place in places]
        if beams is not None and beams.num_beams > 1:
            found = _by_beams(search, beams, of_shape, encoder_length=length)
        else:
            found = search.answers(of_shape, encoder_length=length)
        for answer in found:
            place = answer.question.place
            generation = _generation(answer, tokenizer, beams)
            if len(whole[place]) > encoder_length:
                generation = dataclasses.replace(generation, truncated=True)
            answers.setdefault(place, {})[answer.output] = generation
            if len(answers[place]) == outputs:
                done += 1
                if progress is not None:
                    progress(done)
    return [
        [answers[place][output] for output in sorted(answers[place])] for place in range(len(texts))
    ]


def _questions(
    tokenizer: TextTokenizer,
    encoded: Sequence[Sequence[int]],
    *,
    prefixes: Sequence[str | Sequence[int]] | None,
    guides: Sequence[Guide] | None,
    ids: Sequence[str | int] | None,
) -> list[Question]:
    given = [()] * len(encoded) if prefixes is None else prefixes
    texts = iter(tokenizer.encode_batch([prefix for prefix in given if isinstance(prefix, str)]))
    return [
        Question(
            place=place,
            tokens=tokens,
            prefix=next(texts) if isinstance(prefix, str) else list(prefix),
            record_hash=record_hash(place if ids is None else ids[place]),
            guide=None if guides is None else guides[place],
        )
        for place, (tokens, prefix) in enumerate(zip(encoded, given, strict=True))
    ]


def _by_beams(
    search: RowSearch, beams: BeamSettings, questions: Sequence[Question], *, encoder_length: int
) -> Iterator[RowAnswer]:
    """The best answers to each question, batch by batch; the settings are those of `search`."""
    stops = search.stops
    for start in range(0, len(questions), search.rows):
        batch = questions[start : start + search.rows]
        tokens, segment_ids = padded(
            [question.tokens for question in batch], (search.rows, encoder_length)
        )
        prefixes, prefix_lengths = padded_prefixes(
            [question.prefix for question in batch], (search.rows, search.prefix_length)
        )
        guides = [question.guide for question in batch if question.guide is not None]

        def ends(row: int, tokens: list[int], batch: Sequence[Question] = batch) -> bool:
            return stops is not None and stops.found_in(batch[row].prefix, tokens)

        found = beam_search(
            search.model,
            tokens,
            segment_ids,
            config=search.config,
            settings=beams,
            max_new_tokens=search.max_new_tokens,
            eos_id=search.eos_id,
            rules=search.rules,
            prefixes=prefixes,
            prefix_lengths=prefix_lengths,
            guides=guides or None,
            ends=None if stops is None else ends,
        )
        for row, question in enumerate(batch):
            yield from _beam_answers(
                question, jax.tree.map(lambda x, row=row: np.asarray(x)[row], found), search, beams
            )


def _beam_answers(
    question: Question, found: Beams, search: RowSearch, beams: BeamSettings
) -> Iterator[RowAnswer]:
    """The best of one question's beams; one without tokens where a guide leaves no answer."""
    for output in range(beams.num_outputs):
        if not np.isfinite(found.beam_scores[output]) and not np.isnan(found.beam_scores[output]):
            if output == 0:
                yield RowAnswer(question, 0, [], 0.0, "constraint", beam_score=0.0)
            return
        tokens = found.tokens[output, : found.lengths[output]].tolist()
        cut = None if search.stops is None else search.stops.cut(question.prefix, tokens)
        reason: StopReason = "eos" if tokens[-1:] == [search.eos_id] else "length"
        yield RowAnswer(
            question,
            output,
            tokens,
            float(found.scores[output]),
            reason if cut is None else "stop",
            text=None if cut is None else cut[0],
            beam_score=float(found.beam_scores[output]),
        )


def _generation(
    answer: RowAnswer, tokenizer: TextTokenizer, beams: BeamSettings | None
) -> Generation:
    tokens, beam_score = answer.tokens, answer.beam_score
    if beams is not None and beam_score is None:
        beam_score = answer.score / max(len(tokens), 1) ** beams.length_penalty
    text = answer.text
    if text is None:
        text = continuation(tokenizer, answer.question.prefix, tokens)
    return Generation(
        output=text,
        output_tokens=tokens,
        score=answer.score,
        stop_reason=answer.stop_reason,
        beam_score=beam_score,
    )
