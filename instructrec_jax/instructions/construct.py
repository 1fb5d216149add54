"""From raw corpora to drafts, unit by unit. What a unit gives depends on the recipe alone."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions import near_duplicates as near
from instructrec_jax.instructions.demonstrations import (
    LONGEST_DEMONSTRATION,
    POOL,
    Demonstrable,
    group_of,
)
from instructrec_jax.instructions.document import Context, Document, Draft, Unreadable
from instructrec_jax.instructions.example import TEST, TRAIN
from instructrec_jax.instructions.filters import Evaluation, rejection
from instructrec_jax.instructions.flow import Emission, Run
from instructrec_jax.instructions.personal_data import parts_of
from instructrec_jax.instructions.phrasings import unseen_task
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.rejects import write_unreadable
from instructrec_jax.instructions.sources import Unit, documents_of, units_of
from instructrec_jax.instructions.splitting import answer_hash, split_of_document


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


class DocumentKey(NamedTuple):
    """What a document is compared by: `sketch` of its MinHash values, b"" where it is short."""

    place: str
    split: str
    identity: str
    sketch: bytes


class DraftKey(NamedTuple):
    """What a draft is compared by: its document's place, its number there, and hashes.

    `asked` is all that is asked, `question` the same without case, which no two splits may share.
    `label` is of the target where the options are closed, else ""; `words` for ROUGE-L.
    """

    place: str
    number: int
    task: str
    split: str
    identity: str
    question: str
    asked: str
    target: str
    answer: str
    label: str
    words: bytes


class NumberedUnit(NamedTuple):
    """A piece of a corpus with its number; `limit` documents of it are taken, -1 = all."""

    source: str
    number: int
    unit: Unit
    limit: int = -1


def numbered_units(source: str, recipe: Recipe) -> Iterator[NumberedUnit]:
    """The units of a corpus.

    Where the recipe bounds the number of documents they are shuffled by hash: any first part of
    them is a fair sample.
    """
    units: Iterator[Unit] = units_of(source, recipe)
    if recipe.max_documents_per_source:
        units = iter(sorted(units, key=lambda unit: hashing.digest(recipe.seed, source, *unit)))
    for number, unit in enumerate(units):
        yield NumberedUnit(source, number, unit)


def construct(unit: NumberedUnit, run: Run) -> Iterator[Emission]:
    """The records of one unit: heavy ones with the drafts, light ones to compare them by.

    Counts the unit's documents, and how many drafts there are of each task.
    """
    recipe, tally = run.recipe, run.tally
    source = f"{recipe.sources.index(unit.source):03d}"
    evaluation = run.evaluation if recipe.filters.decontaminate else None
    count = 0
    for found in documents_of(unit.source, unit.unit, recipe):
        if count == unit.limit:
            break
        if isinstance(found, Unreadable):
            yield from write_unreadable(found, unit, run)
            continue
        place = f"{source}.{unit.number:08d}.{count:06d}"
        count += 1
        made = construct_document(unit.source, found, recipe, run.context, evaluation)
        _count_document(unit.source, made, run)
        for candidate in made.candidates:
            tally.count("drafts", candidate.task)
        yield from _keys(place, made, recipe)
        if made.split == TRAIN and recipe.demonstrations:
            _propose_demonstrations(place, made, run)
        if made.candidates:
            yield "documents", place, made
    means = run.context.sandbox.means_in_use
    if means is not None:
        # That there are any is told; how many units a process had run before is chance.
        tally.count("guard", " ".join(means), by=0)


def _propose_demonstrations(place: str, made: DocumentDrafts, run: Run) -> None:
    """Keep the first short drafts by hash of each task; decisions.py drops those refused later."""
    for number, candidate in enumerate(made.candidates):
        draft = candidate.draft
        if not candidate.reason and len(draft.input) + len(draft.target) <= LONGEST_DEMONSTRATION:
            run.tally.keep(
                "demonstration", candidate.task,
                order=f"{candidate.identity}.{place}.{number}",
                value=Demonstrable(draft, group_of(made.document), candidate.identity),
                most=POOL,
            )  # fmt: skip


def construct_unit(
    source: str, unit: Unit, *, recipe: Recipe, context: Context
) -> list[DocumentDrafts]:
    """The documents of one unit with their drafts, for a look at them outside a build."""
    return [
        construct_document(source, document, recipe, context)
        for document in documents_of(source, unit, recipe)
        if isinstance(document, Document)
    ]


def construct_document(
    source: str,
    document: Document,
    recipe: Recipe,
    context: Context,
    evaluation: Evaluation | None = None,
) -> DocumentDrafts:
    """A document with the drafts of every chosen task, each with the first filter's objection.

    Tasks that are held out and chained tasks are made from test documents alone.
    """
    split = split_of_document(
        document,
        validation_fraction=recipe.validation_fraction,
        test_fraction=recipe.test_fraction,
        seed=recipe.seed,
    )
    candidates, bank = [], recipe.bank
    hidden = frozenset[str]()
    if recipe.filters.uses("personal_data"):
        hidden = parts_of(document.text, *document.other_texts)
    # Asked of the document too: blanks, shuffled words and misspellings hide its text in a draft.
    evaluated = (
        evaluation is not None
        and recipe.filters.uses("decontamination")
        and evaluation.holds(document.text, *document.other_texts)
    )
    for name in recipe.tasks_of(source):
        if unseen_task(name, recipe) and split != TEST:
            continue
        task = bank[name]
        for draft in task.generate(document, context):
            reason = rejection(
                draft,
                limits=recipe.limits,
                target_in_input=task.target_in_input,
                settings=recipe.filters,
                evaluation=evaluation,
                hidden=hidden,
            )
            reason = reason or ("in_evaluation_data" if evaluated else "")
            candidates.append(_candidate(name, draft, reason, document))
    bare = dataclasses.replace(document, content={})
    return DocumentDrafts(document=bare, split=split, candidates=tuple(candidates))


def _candidate(task: str, draft: Draft, reason: str, document: Document) -> Candidate:
    question = _question(draft)
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


def _question(draft: Draft, *, folded: bool = False) -> str:
    """Hash of all that is asked, white space left out, and where it is `folded` case too."""
    asked = sorted(key for key in draft.fields if key != "options")
    texts = [f"{key}={_without_space(draft.fields[key])}" for key in asked]
    return hashing.digest(*(text.casefold() if folded else text for text in texts))


def _without_space(value: object) -> str:
    return "".join(str(value).split())


def _count_document(source: str, made: DocumentDrafts, run: Run) -> None:
    document, tally = made.document, run.tally
    tally.count("documents", source)
    tally.count("characters", source, by=len(document.text))
    tally.count("document_split", source, made.split)
    tally.count("licence", source, document.licence)
    # A sum, so that the order of the documents does not matter.
    tally.count("digest", source, by=int(document.sha256, 16))
    if document.encoding:
        tally.count("encoding", source, document.encoding)
    if not made.candidates:
        tally.count("document_fate", source, "without_drafts")


def _keys(place: str, made: DocumentDrafts, recipe: Recipe) -> Iterator[Emission]:
    """The light records of a document."""
    document, filters = made.document, recipe.filters
    key = DocumentKey(place, made.split, document.identity, b"")
    yield "texts", document.normalised_text_hash, key
    if filters.uses("near_duplicate"):
        # Of a translation each language counts, and the whole: its parts are often short.
        texts = (document.text, *document.other_texts)
        for text in dict.fromkeys((*texts, "\n".join(texts))):
            words = near.words_of(text)
            if len(words) < filters.near_duplicate_words:
                continue
            values = near.signature(words, permutations=filters.near_duplicate_permutations)
            key = key._replace(sketch=near.sketch(values))
            for band in near.bands(values, similarity=filters.near_duplicate_similarity):
                yield "bands", band, key
    if not made.candidates:
        return
    drafts = []
    for number, candidate in enumerate(made.candidates):
        if candidate.reason:
            continue
        draft, compared = candidate.draft, b""
        if filters.uses("similar_question"):
            text = f"{draft.input}\n{draft.target}"
            compared = near.rouge_sketch(text, least=filters.rouge_words)
        drafts.append(
            DraftKey(
                place=place,
                number=number,
                task=candidate.task,
                split=made.split,
                identity=candidate.identity,
                question=_question(draft, folded=True),
                asked=candidate.question,
                target=candidate.target,
                answer=candidate.answer,
                label=hashing.digest(draft.target, size=2) if draft.options else "",
                words=compared,
            )
        )
    yield "drafts", place, tuple(drafts)
