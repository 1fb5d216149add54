"""Counts and lengths of a dataset: what dataset.json and the datasheet say about it."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from instructrec_jax.instructions.construct import DocumentDrafts
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import SPLITS, InstructionExample, encoder_text


@dataclass
class SourceStatistics:
    """What one raw corpus gave; `digest` becomes the hash of all its documents in order."""

    documents: int = 0
    characters: int = 0
    without_drafts: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, item: DocumentDrafts) -> None:
        """Count a document."""
        document: Document = item.document
        self.documents += 1
        self.characters += len(document.text)
        self.without_drafts += not item.candidates
        self.splits[item.split] += 1
        self.licences[document.licence] += 1
        self.digest.update(bytes.fromhex(document.sha256))

    def to_record(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {
            "documents": self.documents,
            "documents_without_drafts": self.without_drafts,
            "characters": self.characters,
            "splits": {split: self.splits[split] for split in SPLITS},
            "licences": dict(sorted(self.licences.items())),
            "sha256": self.digest.hexdigest(),
        }


def count_examples(examples: Iterable[InstructionExample]) -> dict[str, dict[str, dict[str, int]]]:
    """Examples by task, split and hold-out: {task: {split: {hold-out or "": count}}}."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for example in examples:
        holdouts = counts.setdefault(example.task, {}).setdefault(example.split, {})
        holdouts[example.holdout] = holdouts.get(example.holdout, 0) + 1
    return {
        task: {split: dict(sorted(splits[split].items())) for split in SPLITS if split in splits}
        for task, splits in sorted(counts.items())
    }


def lengths(texts: Sequence[int]) -> dict[str, float]:
    """Mean, median, 95th percentile and maximum of some lengths in characters."""
    ordered = sorted(texts)
    return {
        "mean": round(statistics.fmean(ordered), 1),
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }


def task_lengths(
    examples: Iterable[InstructionExample],
) -> dict[str, dict[str, dict[str, float]]]:
    """{task: {"encoder": lengths, "target": lengths}} in characters; sorted by task."""
    encoder: dict[str, list[int]] = {}
    target: dict[str, list[int]] = {}
    for example in examples:
        text = encoder_text(example.instruction, example.input)
        encoder.setdefault(example.task, []).append(len(text))
        target.setdefault(example.task, []).append(len(example.target))
    return {
        task: {"encoder": lengths(encoder[task]), "target": lengths(target[task])}
        for task in sorted(encoder)
    }


def histogram(values: Iterable[int]) -> list[tuple[int, int]]:
    """Counts by powers of two: (upper bound, how many values lie below it and not below half)."""
    counts = Counter(max(1, value).bit_length() for value in values)
    return [(2**bits, counts[bits]) for bits in range(1, max(counts, default=0) + 1)]
