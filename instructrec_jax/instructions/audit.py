"""The proof that nothing leaked between the splits, from the finished files alone.

Nothing here uses the keys and buckets of the build: held-out examples are read back and held as
hashes, 16 bytes of each, then the train files are read past them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import (
    TEST,
    TRAIN,
    VALIDATION,
    Demonstration,
    InstructionExample,
)
from instructrec_jax.instructions.splitting import answer_hash

# Examples whose texts are compared word by word: held-out ones, and train ones. The files are in
# the order of a hash, so that the first ones are a fair sample.
_HELD_OUT_SAMPLE, _TRAIN_SAMPLE = 4_000, 20_000
_WORDS_IN_A_ROW = 5
# Examples that are looked at together.
_BATCH = 1_000
Read = Callable[[str], Iterable[InstructionExample]]


@dataclass(frozen=True)
class LeakAudit:
    """Counts of what must not happen; all are 0 in a sound dataset."""

    documents_in_two_splits: int
    questions_and_answers_in_two_splits: int
    held_out_templates_outside_test: int
    held_out_tasks_outside_test: int

    @property
    def sound(self) -> bool:
        """Whether nothing leaked."""
        return not any(vars(self).values())


@dataclass(frozen=True)
class NearLeaks:
    """Held-out texts that have a near-duplicate in train: how many of how many that were compared.

    `similarity` is the Jaccard similarity of their runs of five words from which on two texts count
    as near-duplicates; it is computed exactly, on the first texts by hash.
    """

    found: int
    held_out_texts: int
    train_texts: int
    similarity: float


def audit(
    read: Read,
    *,
    held_out_templates: frozenset[str],
    held_out_tasks: frozenset[str],
) -> LeakAudit:
    """Count leaks in the finished examples, from what stands in them alone.

    A document is told by its corpus, address, lines and hash; an answered question by task, text
    and target without white space and case (the instruction left out: another phrasing does not
    make another question). What an example shows as solved is an answered question of its split.

    Args:
        read: gives the examples of a split.
        held_out_templates: ids of templates that test alone may use.
        held_out_tasks: tasks that test alone may have.
    """
    held = {kind: np.empty(0, np.uint64) for kind in _COMPARED}
    leaked: dict[str, set[int]] = {kind: set() for kind in _COMPARED}
    templates = tasks = 0
    for split in (TEST, VALIDATION, TRAIN):
        own = {kind: [held[kind]] for kind in _COMPARED}
        examples = iter(read(split))
        while batch := list(islice(examples, _BATCH)):
            for kind, hashes_of in _COMPARED.items():
                hashes = _numbers(key for example in batch for key in hashes_of(example))
                leaked[kind].update(hashes[_are_in(hashes, held[kind])].tolist())
                # What only train has need not be remembered.
                if split != TRAIN:
                    own[kind].append(hashes)
            if split != TEST:
                templates += sum(example.template in held_out_templates for example in batch)
                tasks += sum(example.task in held_out_tasks for example in batch)
        held = {kind: np.unique(np.concatenate(parts)) for kind, parts in own.items()}
    return LeakAudit(
        documents_in_two_splits=len(leaked["documents"]),
        questions_and_answers_in_two_splits=len(leaked["answers"]),
        held_out_templates_outside_test=templates,
        held_out_tasks_outside_test=tasks,
    )


def near_leaks(read: Read, *, similarity: float, words: int) -> NearLeaks:
    """Compare a sample of held-out texts of at least so many words with a sample of train's.

    The text of an example is its input, or its material inside the instruction; those of its
    demonstrations count too.
    """
    held_out: dict[str, np.ndarray] = {}
    for split in (TEST, VALIDATION):
        held_out.update(_texts(islice(read(split), _HELD_OUT_SAMPLE // 2), words))
    sizes = np.array([len(rows) for rows in held_out.values()], int)
    rows_held = np.concatenate([np.empty(0, np.int64), *held_out.values()])
    order = np.argsort(rows_held, kind="stable")
    owners, rows_held = np.repeat(np.arange(len(sizes)), sizes)[order], rows_held[order]
    found: set[int] = set()
    compared = 0
    for _, rows in _texts(islice(read(TRAIN), _TRAIN_SAMPLE), words):
        compared += 1
        first, last = (np.searchsorted(rows_held, rows, side) for side in ("left", "right"))
        hit = last > first
        if not hit.any():
            continue
        ranges = zip(first[hit], last[hit], strict=True)
        shared = np.bincount(np.concatenate([owners[i:j] for i, j in ranges]), minlength=len(sizes))
        near = (shared > 0) & (shared >= similarity * (len(rows) + sizes - shared))
        found.update(np.flatnonzero(near).tolist())
    return NearLeaks(len(found), len(held_out), compared, similarity)


def _texts(examples: Iterable[InstructionExample], least: int) -> Iterator[tuple[str, np.ndarray]]:
    """Texts with hashes of their runs of words, int64, each once."""
    seen = set()
    for example in examples:
        for question in _questions(example):
            words = (question.input or question.material).casefold().split()
            key = hashing.digest(" ".join(words))
            if len(words) < least or key in seen:
                continue
            seen.add(key)
            rows = zip(*(words[start:] for start in range(_WORDS_IN_A_ROW)), strict=False)
            yield key, np.unique(np.fromiter(map(hash, rows), np.int64))


def _numbers(hashes: Iterable[str]) -> np.ndarray:
    """Different hashes of 16 hexadecimal digits as uint64, sorted."""
    return np.unique(np.fromiter((int(text, 16) for text in hashes), np.uint64))


def _are_in(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the values stand among the known ones, which are sorted."""
    places = np.searchsorted(known, values)
    inside = places < len(known)
    inside[inside] = known[places[inside]] == values[inside]
    return inside


def _document(example: InstructionExample) -> Iterator[str]:
    source = example.provenance
    assert source is not None
    yield hashing.digest(source.corpus, source.uri, source.span, source.sha256)


def _answers(example: InstructionExample) -> Iterator[str]:
    """Of the example, and of what it shows as solved."""
    for question in _questions(example):
        asked = question.input or question.material or question.instruction
        yield answer_hash(example.task, asked, question.target)


def _questions(example: InstructionExample) -> list[InstructionExample | Demonstration]:
    return [example, *example.demonstrations]


# What must not be in two splits: hashes of an example's document, of its answered questions.
_COMPARED: dict[str, Callable[[InstructionExample], Iterator[str]]] = {
    "documents": _document,
    "answers": _answers,
}
