"""Answers of one row each, with the places of ended rows filled again: the host's side of `rows`.

The devices go on by themselves until enough rows have ended. The host looks at every token only
where something asks for it: a guide, stop strings, or a reader of the answer as it grows.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from instructrec_jax.decoding.batching import padded
from instructrec_jax.decoding.guides import Guide
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.decoding.prepared import PreparedModel
from instructrec_jax.decoding.rows import (
    Rows,
    advanced,
    empty_rows,
    encoded_rows,
    with_new_rows,
)
from instructrec_jax.decoding.sampling import SamplingSettings
from instructrec_jax.decoding.stops import Stops
from instructrec_jax.model.config import T5Config

StopReason = Literal["eos", "length", "stop", "constraint"]

# New tokens between two looks of the host, where it looks for more than ended rows.
_STEPS_BETWEEN_LOOKS = 8
_STEPS_BETWEEN_READS = 2
# Part of the rows that are free before new ones take their places: to do so moves the whole cache.
_FREE_PART = 4


@dataclass(frozen=True)
class Question:
    """What one prompt asks for."""

    place: int  # among all prompts
    tokens: Sequence[int]
    prefix: Sequence[int]
    record_hash: int
    guide: Guide | None = None


@dataclass(frozen=True)
class RowAnswer:
    """One answer to a question."""

    question: Question
    output: int  # its number among the question's answers
    tokens: list[int]
    score: float
    stop_reason: StopReason
    text: str | None = None  # where it was cut, before the stop string
    beam_score: float | None = None  # of beam search


@dataclass
class _Place:
    """What a row of the batch is busy with."""

    question: Question
    output: int
    state: Any = None  # of the guide
    read: int = 0  # tokens that the host has seen


@dataclass(frozen=True)
class RowSearch:
    """Greedy search or sampling of prompts."""

    model: PreparedModel
    config: T5Config
    rows: int  # at once
    prefix_length: int  # of the longest prefix, padded
    max_new_tokens: int
    eos_id: int
    rules: LogitRules
    sampling: SamplingSettings | None
    stops: Stops | None = None
    # Called with a question's place and the tokens of its answer so far.
    reader: Callable[[int, list[int]], None] | None = None

    def answers(self, questions: Sequence[Question], *, encoder_length: int) -> Iterator[RowAnswer]:
        """One for each question, or `sampling.num_outputs`, in the order in which they end.

        Questions are padded to `encoder_length`.
        """
        waiting = _Waiting(self, deque(questions), encoder_length)
        places: list[_Place | None] = [None] * self.rows
        rows: Rows | None = None
        stopped = np.zeros(self.rows, bool)
        while True:
            rows = waiting.fill(rows, places, stopped)
            if rows is None or not any(places):
                return
            allowed = None
            if any(place is not None and place.question.guide is not None for place in places):
                allowed, stuck = self._allowed(places)
                for row in stuck:
                    yield self._stuck(places, row, rows)
                    stopped[row] = True
                if stuck:
                    continue
            free = places.count(None)
            enough = free + max(1, self.rows // _FREE_PART) if waiting else self.rows
            rows = advanced(
                self.model,
                rows,
                stopped,
                config=self.config,
                rules=self.rules,
                sampling=self.sampling,
                eos_id=self.eos_id,
                steps=self._steps(guided=allowed is not None),
                enough_finished=enough,
                allowed=allowed,
            )
            stopped = np.zeros(self.rows, bool)
            yield from self._looked_at(rows, places, stopped, allowed)

    def _steps(self, *, guided: bool) -> int:
        if guided:
            return 1
        if self.reader is not None:
            return _STEPS_BETWEEN_READS
        return self.max_new_tokens if self.stops is None else _STEPS_BETWEEN_LOOKS

    def _allowed(self, places: Sequence[_Place | None]) -> tuple[np.ndarray, list[int]]:
        """What may come next, bool [R, V], and the rows where nothing may."""
        allowed = np.ones((self.rows, self.config.vocabulary_size), bool)
        stuck = []
        for row, place in enumerate(places):
            if place is not None and place.question.guide is not None:
                allowed[row] = place.question.guide.allowed(place.state)
                if not allowed[row].any():
                    stuck.append(row)
        return allowed, stuck

    def _stuck(self, places: list[_Place | None], row: int, rows: Rows) -> RowAnswer:
        """Of a row whose guide has no token left; its place is free."""
        place = places[row]
        assert place is not None
        places[row] = None
        first = 1 + len(place.question.prefix)
        tokens = np.asarray(rows.history)[row, first : first + place.read].tolist()
        score = float(np.asarray(rows.token_scores)[row, : place.read].sum(dtype=np.float64))
        return RowAnswer(place.question, place.output, tokens, score, "constraint")

    def _looked_at(
        self,
        rows: Rows,
        places: list[_Place | None],
        stopped: np.ndarray,
        allowed: np.ndarray | None,
    ) -> Iterator[RowAnswer]:
        """The answers that have ended; their places are free, and `stopped` if they need it."""
        history, lengths, finished, scores = (
            np.asarray(leaf)
            for leaf in (rows.history, rows.lengths, rows.finished, rows.token_scores)
        )
        for row, place in enumerate(places):
            if place is None:
                continue
            question = place.question
            tokens = history[row, 1 + len(question.prefix) : lengths[row]].tolist()
            ended: StopReason | None = None
            text = None
            if finished[row]:
                ended = "eos" if tokens[-1:] == [self.eos_id] else "length"
            if question.guide is not None and allowed is not None:
                if not allowed[row, tokens[-1]]:  # all that the guide allows is ruled out
                    tokens, ended = tokens[:-1], "constraint"
                elif ended != "eos":
                    place.state = question.guide.next(place.state, tokens[-1])
            cut = None if self.stops is None else self.stops.cut(question.prefix, tokens)
            if cut is not None:
                text, count = cut
                tokens, ended = tokens[:count], "stop"
            place.read = len(tokens)
            if self.reader is not None:
                self.reader(question.place, tokens)
            if ended is not None:
                places[row] = None
                stopped[row] = not finished[row]
                score = float(scores[row, : len(tokens)].sum(dtype=np.float64))
                yield RowAnswer(question, place.output, tokens, score, ended, text)


class _Waiting:
    """Questions that have no place yet, and those of them whose encoder states are ready."""

    def __init__(self, search: RowSearch, questions: deque[Question], encoder_length: int) -> None:
        self._search = search
        self._encoder_length = encoder_length
        self._questions = questions
        self._ready: deque[tuple[int, Question, int]] = deque()  # row in `_rows`, output
        self._rows: Rows | None = None

    def __bool__(self) -> bool:
        return bool(self._ready or self._questions)

    def fill(
        self, rows: Rows | None, places: list[_Place | None], stopped: np.ndarray
    ) -> Rows | None:
        """`rows` with the free places taken by questions, as far as there are any.

        Rows that take a place are not `stopped`. None where nothing has ever begun.
        """
        while self and None in places:
            if not self._ready:
                self._encode()
            assert self._rows is not None
            if rows is None:
                rows = empty_rows(self._rows)
            sources = np.full(len(places), -1, np.int32)
            seeds = np.zeros((len(places), 2), np.uint32)
            for row, place in enumerate(places):
                if place is not None or not self._ready:
                    continue
                sources[row], question, output = self._ready.popleft()
                seeds[row] = question.record_hash, output
                state = None if question.guide is None else question.guide.start()
                places[row] = _Place(question, output, state)
                stopped[row] = False
            rows = with_new_rows(rows, self._rows, sources, seeds)
            if not self._ready:
                self._rows = None
        return rows

    def _encode(self) -> None:
        search = self._search
        count = min(search.rows, len(self._questions))
        questions = [self._questions.popleft() for _ in range(count)]
        tokens, segment_ids = padded(
            [question.tokens for question in questions], (search.rows, self._encoder_length)
        )
        prefixes, prefix_lengths = padded_prefixes(
            [question.prefix for question in questions], (search.rows, search.prefix_length)
        )
        self._rows = encoded_rows(
            search.model,
            tokens,
            segment_ids,
            prefixes,
            prefix_lengths,
            config=search.config,
            max_new_tokens=search.max_new_tokens,
        )
        outputs = 1 if search.sampling is None else search.sampling.num_outputs
        self._ready.extend(
            (row, question, output)
            for row, question in enumerate(questions)
            for output in range(outputs)
        )


def padded_prefixes(
    prefixes: Sequence[Sequence[int]], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """int32 [R, 1 + P] of T5's start token and each prefix, and the prefixes' lengths [R]."""
    tokens = np.zeros((shape[0], 1 + shape[1]), np.int32)
    lengths = np.zeros(shape[0], np.int32)
    for row, prefix in enumerate(prefixes):
        tokens[row, 1 : 1 + len(prefix)] = prefix
        lengths[row] = len(prefix)
    return tokens, lengths
