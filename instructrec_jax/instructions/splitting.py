"""Which split an item belongs to, and the proof that nothing leaked between the splits."""

from collections.abc import Iterable
from dataclasses import dataclass

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import TEST, TRAIN, VALIDATION, InstructionExample

# What a test example probes.
DOCUMENT, PHRASING, TASK = "document", "phrasing", "task"


def split_of_document(
    document: Document, *, validation_fraction: float, test_fraction: float, seed: int
) -> str:
    """The split of all documents of the group, by hash; the group "" is always in train."""
    if not document.group:
        return TRAIN
    place = hashing.fraction(seed, "split", document.corpus, document.group)
    if place < test_fraction:
        return TEST
    return VALIDATION if place < test_fraction + validation_fraction else TRAIN


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


def audit(
    examples: Iterable[InstructionExample],
    *,
    held_out_templates: frozenset[str],
    held_out_tasks: frozenset[str],
) -> LeakAudit:
    """Count leaks in the finished examples, from what stands in them alone.

    A document is told by its corpus, address, lines and hash; an answered question by task, text
    and target without white space and case (the instruction left out: another phrasing does not
    make another question).
    """
    documents: dict[str, set[str]] = {}
    answers: dict[str, set[str]] = {}
    templates = tasks = 0
    for example in examples:
        source = example.provenance
        assert source is not None
        document = hashing.digest(source.corpus, source.uri, source.span, source.sha256)
        documents.setdefault(document, set()).add(example.split)
        asked = example.input or example.material or example.instruction
        answer = answer_hash(example.task, asked, example.target)
        answers.setdefault(answer, set()).add(example.split)
        if example.split != TEST:
            templates += example.template in held_out_templates
            tasks += example.task in held_out_tasks
    return LeakAudit(
        documents_in_two_splits=sum(len(splits) > 1 for splits in documents.values()),
        questions_and_answers_in_two_splits=sum(len(splits) > 1 for splits in answers.values()),
        held_out_templates_outside_test=templates,
        held_out_tasks_outside_test=tasks,
    )


def answer_hash(task: str, text: str, target: str) -> str:
    """Hash of a task, input and target without white space and case."""
    return hashing.digest(task, *("".join(part.casefold().split()) for part in (text, target)))
