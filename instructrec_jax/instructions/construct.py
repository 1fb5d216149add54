"""From raw corpora to drafts, unit by unit. What a unit gives depends on the recipe alone."""

import dataclasses
from dataclasses import dataclass

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Context, Document, Draft, Unreadable
from instructrec_jax.instructions.example import TEST
from instructrec_jax.instructions.filters import rejection
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import Unit, documents_of, units_of
from instructrec_jax.instructions.splitting import answer_hash, split_of_document
from instructrec_jax.instructions.tasks import TASKS


@dataclass(frozen=True)
class Candidate:
    """A draft of a task, why it was refused ("" if it was not), and hashes to compare it by.

    `question` is all that is asked, `target` the answer, both without white space; `answer` the
    input and target without white space and case; `identity` tells the draft from every other one.
    """

    task: str
    draft: Draft
    reason: str
    question: str
    target: str
    answer: str
    identity: str


@dataclass(frozen=True)
class DocumentDrafts:
    """A document (its content left behind), its split, and the drafts made from it."""

    document: Document
    split: str
    candidates: tuple[Candidate, ...]


def units_in_order(source: str, recipe: Recipe) -> list[Unit]:
    """The units of a corpus, shuffled by hash: any first part of them is a fair sample."""
    return sorted(
        units_of(source, recipe),
        key=lambda unit: hashing.digest(recipe.seed, source, *unit),
    )


def construct_unit(
    source: str, unit: Unit, *, recipe: Recipe, context: Context
) -> list[DocumentDrafts]:
    """The documents of one unit with the drafts of every chosen task.

    Tasks that are held out are made from test documents alone.
    """
    tasks = recipe.tasks_of(source)
    constructed = []
    for document in documents_of(source, unit, recipe):
        if isinstance(document, Unreadable):
            continue
        split = split_of_document(
            document,
            validation_fraction=recipe.validation_fraction,
            test_fraction=recipe.test_fraction,
            seed=recipe.seed,
        )
        candidates = []
        for name in tasks:
            if name in recipe.holdout_tasks and split != TEST:
                continue
            task = TASKS[name]
            for draft in task.generate(document, context):
                reason = rejection(
                    draft, limits=recipe.limits, target_in_input=task.target_in_input
                )
                candidates.append(_candidate(name, draft, reason, document))
        bare = dataclasses.replace(document, content={})
        constructed.append(DocumentDrafts(document=bare, split=split, candidates=tuple(candidates)))
    return constructed


def _candidate(task: str, draft: Draft, reason: str, document: Document) -> Candidate:
    asked = sorted(key for key in draft.fields if key != "options")
    question = hashing.digest(*(f"{key}={_without_space(draft.fields[key])}" for key in asked))
    target = hashing.digest(_without_space(draft.target))
    return Candidate(
        task=task,
        draft=draft,
        reason=reason,
        question=question,
        target=target,
        answer=answer_hash(task, draft.input, draft.target),
        identity=hashing.digest(task, document.identity, question, target),
    )


def _without_space(value: object) -> str:
    return "".join(str(value).split())
