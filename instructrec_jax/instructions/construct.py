"""From raw corpora to drafts, unit by unit. What a unit gives depends on the recipe alone."""

import dataclasses
from dataclasses import dataclass

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.example import TEST
from instructrec_jax.instructions.filters import rejection
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import SOURCES, Unit
from instructrec_jax.instructions.splitting import split_of_document
from instructrec_jax.instructions.tasks import TASKS


@dataclass(frozen=True)
class Candidate:
    """A draft of a task, and why it was refused ("" if it was not)."""

    task: str
    draft: Draft
    reason: str


@dataclass(frozen=True)
class DocumentDrafts:
    """A document (its content left behind), its split, and the drafts made from it."""

    document: Document
    split: str
    candidates: tuple[Candidate, ...]


def units_in_order(source: str, recipe: Recipe) -> list[Unit]:
    """The units of a corpus, shuffled by hash: any first part of them is a fair sample."""
    units = SOURCES[source].units(recipe.languages)
    return sorted(units, key=lambda unit: hashing.digest(recipe.seed, source, *unit))


def construct_unit(
    source: str, unit: Unit, *, recipe: Recipe, context: Context
) -> list[DocumentDrafts]:
    """The documents of one unit with the drafts of every chosen task.

    Tasks that are held out are made from test documents alone.
    """
    tasks = [name for name in recipe.chosen_tasks if source in TASKS[name].sources]
    constructed = []
    for document in SOURCES[source].documents(unit, recipe.languages, recipe.seed):
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
                candidates.append(Candidate(task=name, draft=draft, reason=reason))
        bare = dataclasses.replace(document, content={})
        constructed.append(DocumentDrafts(document=bare, split=split, candidates=tuple(candidates)))
    return constructed
