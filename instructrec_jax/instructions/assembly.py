"""From all drafts to the examples of a dataset: what only the whole can decide.

Duplicates, contradictions, what train shares with held-out data, and the caps; then each draft
that is left is phrased. Every draft is either phrased or rejected with a reason, so counts add up.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.construct import Candidate, DocumentDrafts
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import (
    TEST,
    TRAIN,
    VALIDATION,
    InstructionExample,
    Provenance,
)
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.splitting import DOCUMENT, PHRASING, TASK
from instructrec_jax.instructions.tasks import TASKS
from instructrec_jax.instructions.templates import (
    Template,
    choose_template,
    held_out_templates,
    load_templates,
)

# Held-out data comes first: where two splits share something, train loses it.
_PRECEDENCE = {TEST: 0, VALIDATION: 1, TRAIN: 2}
# Rejected drafts written to the dataset for each task and reason; all are counted.
_REJECTS_WRITTEN = 20


@dataclass(frozen=True)
class _Entry:
    """A draft on its way through the global filters."""

    document: Document
    split: str
    candidate: Candidate

    @property
    def task(self) -> str:
        return self.candidate.task


@dataclass
class Assembly:
    """The examples of a dataset, and what became of every draft.

    `drafts[task]` counts the drafts constructed, `accepted[task]` those phrased,
    `rejected[task][reason]` the others; `rejects` are samples of these as (reason, example).
    `directions` counts the phrased translations by (source language, target language).
    """

    examples: list[InstructionExample] = field(default_factory=list)
    rejects: list[tuple[str, InstructionExample]] = field(default_factory=list)
    drafts: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    templates: dict[str, tuple[Template, ...]] = field(default_factory=dict)
    held_out: dict[str, tuple[Template, ...]] = field(default_factory=dict)
    directions: Counter[tuple[str, str]] = field(default_factory=Counter)


class Assembler:
    """Takes documents in any number of calls, then assembles the dataset."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._entries: list[_Entry] = []
        self._text_split: dict[str, str] = {}
        self._seen: dict[str, tuple[Template, ...]] = {}
        self._result = Assembly()
        for task in recipe.chosen_tasks:
            templates = load_templates(task)
            self._result.templates[task] = templates
            self._result.held_out[task] = (
                ()
                if task in recipe.holdout_tasks
                else held_out_templates(templates, count=recipe.holdout_phrasings, seed=recipe.seed)
            )
            self._seen[task] = tuple(t for t in templates if t not in self._result.held_out[task])
            self._result.rejected[task] = Counter()

    def add(self, documents: Iterable[DocumentDrafts]) -> None:
        """Take the drafts of some documents; those refused already are counted here."""
        for item in documents:
            text = item.document.normalised_text_hash
            known = self._text_split.get(text, item.split)
            self._text_split[text] = min(known, item.split, key=_PRECEDENCE.__getitem__)
            for candidate in item.candidates:
                entry = _Entry(document=item.document, split=item.split, candidate=candidate)
                self._result.drafts[candidate.task] += 1
                if candidate.reason:
                    self._reject(entry, candidate.reason)
                else:
                    self._entries.append(entry)

    def assemble(self) -> Assembly:
        """Filter, cap and phrase everything that was added."""
        entries = sorted(self._entries, key=lambda e: (_PRECEDENCE[e.split], e.candidate.identity))
        entries = self._without_held_out_text(entries)
        entries = self._without_contradictions(entries)
        entries = self._without_duplicates(entries)
        for entry in self._within_caps(entries):
            self._result.accepted[entry.task] += 1
            fields = entry.candidate.draft.fields
            if "target_language" in fields:
                self._result.directions[fields["source_language"], fields["target_language"]] += 1
            self._result.examples += self._phrased(entry)
        seed = self._recipe.seed
        self._result.examples.sort(key=lambda example: hashing.digest(seed, "order", example.id))
        self._result.rejects.sort(key=lambda reject: (reject[1].task, reject[0], reject[1].id))
        return self._result

    def _reject(self, entry: _Entry, reason: str) -> None:
        counts = self._result.rejected[entry.task]
        counts[reason] += 1
        if counts[reason] <= _REJECTS_WRITTEN:
            example = self._example(entry, kind="rejected", template=None)
            self._result.rejects.append((reason, example))

    def _without_held_out_text(self, entries: list[_Entry]) -> list[_Entry]:
        """Documents whose text, but for case and white space, is also in a held-out split."""
        kept = []
        for entry in entries:
            if self._text_split[entry.document.normalised_text_hash] == entry.split:
                kept.append(entry)
            else:
                self._reject(entry, "text_in_held_out_split")
        return kept

    def _without_contradictions(self, entries: list[_Entry]) -> list[_Entry]:
        """Questions of a task that have several targets: none of them is kept."""
        targets: dict[tuple[str, str], set[str]] = {}
        for entry in entries:
            key = (entry.task, entry.candidate.question)
            targets.setdefault(key, set()).add(entry.candidate.target)
        kept = []
        for entry in entries:
            if len(targets[entry.task, entry.candidate.question]) == 1:
                kept.append(entry)
            else:
                self._reject(entry, "contradiction")
        return kept

    def _without_duplicates(self, entries: list[_Entry]) -> list[_Entry]:
        """The same question twice, and questions whose answer an earlier split holds."""
        questions: set[tuple[str, str]] = set()
        answers: dict[str, str] = {}
        kept = []
        for entry in entries:
            question = (entry.task, entry.candidate.question)
            if answers.setdefault(entry.candidate.answer, entry.split) != entry.split:
                self._reject(entry, "answer_in_held_out_split")
            elif question in questions:
                self._reject(entry, "duplicate")
            else:
                questions.add(question)
                kept.append(entry)
        return kept

    def _within_caps(self, entries: list[_Entry]) -> list[_Entry]:
        """The first drafts by hash of each task, as many as the recipe allows."""
        recipe = self._recipe
        cap = recipe.max_examples_per_task
        bounds = {
            # 0 means no bound: at least one question is kept under the smallest cap.
            TRAIN: max(1, cap // recipe.phrasings_per_example) if cap else 0,
            VALIDATION: 0,
            TEST: recipe.max_test_examples,
        }
        taken: Counter[tuple[str, str]] = Counter()
        kept = []
        for entry in entries:
            key = (entry.task, entry.split)
            if bounds[entry.split] and taken[key] >= bounds[entry.split]:
                self._reject(entry, "over_test_cap" if entry.split == TEST else "over_cap")
            else:
                taken[key] += 1
                kept.append(entry)
        return kept

    def _phrased(self, entry: _Entry) -> Iterable[InstructionExample]:
        """The examples of a draft.

        A test draft is phrased twice, in a phrasing that training sees (`document`) and in one that
        it never sees (`phrasing`): the same unseen questions, so that the two compare.
        """
        recipe, task = self._recipe, entry.task
        seen, held_out = self._seen[task], self._result.held_out[task]
        banks: Mapping[str, tuple[Template, ...]] = {"": seen}
        if entry.split == TEST:
            banks = {TASK: seen} if task in recipe.holdout_tasks else {DOCUMENT: seen}
            if held_out:
                banks = {**banks, PHRASING: held_out}
        for holdout, bank in banks.items():
            count = 1 if holdout else min(recipe.phrasings_per_example, len(bank))
            for number in range(count):
                template = choose_template(
                    bank, seed=recipe.seed, example=entry.candidate.identity, phrasing=number
                )
                yield self._example(entry, kind=holdout or str(number), template=template)

    def _example(
        self, entry: _Entry, *, kind: str, template: Template | None
    ) -> InstructionExample:
        """The finished example; `kind` is the hold-out, the number of the phrasing or "rejected".

        A rejected draft has no phrasing: its fields stand in place of the instruction.
        """
        document, draft, task = entry.document, entry.candidate.draft, TASKS[entry.task]
        instruction, text = ("", draft.input) if template is None else template.render(draft)
        return InstructionExample(
            id=f"{entry.task}-{entry.candidate.identity}-{kind}",
            task=entry.task,
            instruction=instruction,
            input=text,
            material="" if text else draft.input,
            target=draft.target,
            references=draft.references,
            options=draft.options,
            template=template.id if template else "",
            split=entry.split,
            holdout=kind if kind in (DOCUMENT, PHRASING, TASK) else "",
            target_source=task.target_source,
            provenance=Provenance(
                corpus=document.corpus,
                uri=document.uri,
                span=document.span,
                sha256=document.sha256,
                licence=document.licence,
                generator=task.generator_name,
                seed=self._recipe.seed,
            ),
        )
