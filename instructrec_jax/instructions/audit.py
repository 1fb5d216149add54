"""The proof that nothing leaked between the splits, from the finished files alone.

Nothing here uses the keys and buckets of the build: held-out examples are read back and held as
hashes, then the train files are read past them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

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
    documents: dict[str, str] = {}
    answers: dict[str, str] = {}
    leaked_documents: set[str] = set()
    leaked_answers: set[str] = set()
    templates = tasks = 0
    for split in (TEST, VALIDATION, TRAIN):
        for example in read(split):
            for held, leaked, key in (
                (documents, leaked_documents, _document(example)),
                *((answers, leaked_answers, key) for key in _answers(example)),
            ):
                # What only train has need not be remembered.
                known = held.get(key) if split == TRAIN else held.setdefault(key, split)
                if known not in (None, split):
                    leaked.add(key)
            if split != TEST:
                templates += example.template in held_out_templates
                tasks += example.task in held_out_tasks
    return LeakAudit(
        documents_in_two_splits=len(leaked_documents),
        questions_and_answers_in_two_splits=len(leaked_answers),
        held_out_templates_outside_test=templates,
        held_out_tasks_outside_test=tasks,
    )


def near_leaks(read: Read, *, similarity: float, words: int) -> NearLeaks:
    """Compare a sample of held-out texts of at least so many words with a sample of train's.

    The text of an example is its input, or its material inside the instruction; those of its
    demonstrations count too.
    """
    held_out: dict[str, frozenset[str]] = {}
    for split in (TEST, VALIDATION):
        held_out.update(_texts(islice(read(split), _HELD_OUT_SAMPLE // 2), words))
    index: dict[str, list[str]] = {}
    for key, rows in held_out.items():
        for row in rows:
            index.setdefault(row, []).append(key)
    found: set[str] = set()
    compared = 0
    for _, rows in _texts(islice(read(TRAIN), _TRAIN_SAMPLE), words):
        compared += 1
        shared: dict[str, int] = {}
        for row in rows & index.keys():
            for key in index[row]:
                shared[key] = shared.get(key, 0) + 1
        for key, count in shared.items():
            if count >= similarity * (len(rows) + len(held_out[key]) - count):
                found.add(key)
    return NearLeaks(len(found), len(held_out), compared, similarity)


def _texts(
    examples: Iterable[InstructionExample], least: int
) -> Iterator[tuple[str, frozenset[str]]]:
    """Texts with their runs of words, each once."""
    seen = set()
    for example in examples:
        for question in _questions(example):
            words = (question.input or question.material).casefold().split()
            key = hashing.digest(*words)
            if len(words) < least or key in seen:
                continue
            seen.add(key)
            rows = zip(*(words[start:] for start in range(_WORDS_IN_A_ROW)), strict=False)
            yield key, frozenset(map(" ".join, rows))


def _document(example: InstructionExample) -> str:
    source = example.provenance
    assert source is not None
    return f"{source.corpus}\n{source.uri}\n{source.span}\n{source.sha256}"


def _answers(example: InstructionExample) -> Iterator[str]:
    """Of the example, and of what it shows as solved."""
    for question in _questions(example):
        asked = question.input or question.material or question.instruction
        yield answer_hash(example.task, asked, question.target)


def _questions(example: InstructionExample) -> list[InstructionExample | Demonstration]:
    return [example, *example.demonstrations]
