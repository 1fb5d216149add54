"""Which split an item belongs to, and what its test examples probe."""

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import TEST, TRAIN, VALIDATION

# What a test example probes, by what training never sees: its document, its phrasing, its task, or
# its chain of two tasks. The documents of all of them are unseen.
DOCUMENT, PHRASING, TASK, COMPOSITION = "document", "phrasing", "task", "composition"
HOLDOUTS = (DOCUMENT, PHRASING, TASK, COMPOSITION)


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


def answer_hash(task: str, text: str, target: str) -> str:
    """Hash of a task, input and target without white space and case."""
    return hashing.digest(task, *("".join(part.casefold().split()) for part in (text, target)))
