"""The last stages: what is left of each document is phrased, and goes to a shard in hash order."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.construct import Candidate, DocumentDrafts
from instructrec_jax.instructions.decisions import Bounds, Kept, Verdict
from instructrec_jax.instructions.demonstrations import (
    demonstration_count,
    group_of,
    with_demonstrations,
)
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.example import (
    TRAIN,
    InstructionExample,
    Provenance,
)
from instructrec_jax.instructions.few_shot import few_shot_text
from instructrec_jax.instructions.filters import script_of
from instructrec_jax.instructions.flow import FILES, Emission, Group, Run
from instructrec_jax.instructions.rejects import write_reject
from instructrec_jax.instructions.templates import Template, tells_target
from instructrec_jax.instructions.writing import gzipped, json_line, shard_name

# Examples kept apart for the datasheet: that many of each task, split and hold-out.
_SAMPLES = 4


def phrase(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """The examples of a document's drafts, and the rejects; every draft becomes one or the other.

    A rejected draft has no phrasing: its fields stand in place of the instruction.
    """
    (made,) = group["documents"]
    bounds: Bounds = run.side
    verdicts: dict[int, str] = {verdict.number: verdict.reason for verdict in group["verdicts"]}
    kept: dict[int, Kept] = {item.number: item for item in group["kept"]}
    accepted = 0
    for number, candidate in enumerate(made.candidates):
        reason = candidate.reason or verdicts.get(number) or verdicts.get(Verdict(-1, "").number)
        if not reason:
            reason = bounds.objection(
                candidate.task, made.split, kept[number].label, candidate.identity
            )
        phrased = [] if reason else list(_phrased(made, candidate, run))
        if any(_tells(template, candidate.draft, example, run) for example, template in phrased):
            reason = "target_in_instruction"
        if reason:
            run.tally.count("rejected", candidate.task, reason)
            yield from write_reject(
                candidate.task,
                reason,
                f"{candidate.identity}.{key}.{number}",
                partial(_rejected, made, candidate, run),
                run,
                texts=(made.document.text, *made.document.other_texts),
            )
        else:
            accepted += 1
            run.tally.count("accepted", candidate.task)
            yield from _lines(made, candidate, phrased, run)
    if -1 not in verdicts:
        fate = "used" if accepted else "all_drafts_refused"
        run.tally.count("document_fate", run.recipe.sources[int(key[:3])], fate)


def write_shard(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """One file of the dataset, its lines in the order of their hashes."""
    lines = [line for _, line in sorted(group["lines"])]
    contents = gzipped(lines)
    entry = {"examples": len(lines), "sha256": hashlib.sha256(contents).hexdigest()}
    run.tally.keep("file", key, order="", value=entry, most=1)
    yield FILES, key, contents


def _phrased(
    made: DocumentDrafts, candidate: Candidate, run: Run
) -> Iterator[tuple[InstructionExample, Template]]:
    chosen = run.phrasings.choose(candidate.task, made.split, candidate.identity)
    for holdout, number, template in chosen:
        kind = holdout or str(number)
        yield _example(made, candidate, run, template, holdout, kind), template


def _tells(template: Template, draft: Draft, example: InstructionExample, run: Run) -> bool:
    """Whether the phrasing gives the answer away; a look at the finished text spares most.

    Closed answers by any word, open ones by a field: words of a phrasing meet those by chance.
    """
    target = draft.target.strip().casefold()
    if not run.recipe.filters.uses("target_in_instruction"):
        return False
    if target not in example.instruction.casefold():
        return False
    if draft.options:
        return tells_target(template, draft)
    shown = template.fields & draft.fields.keys() - {"input"}
    return any(str(draft.fields[name]).strip().casefold() == target for name in shown)


def _lines(
    made: DocumentDrafts,
    candidate: Candidate,
    phrased: list[tuple[InstructionExample, Template]],
    run: Run,
) -> Iterator[Emission]:
    fields = candidate.draft.fields
    if "target_language" in fields:
        direction = fields["source_language"], fields["target_language"]
        run.tally.count("direction", *direction)
        if made.split == TRAIN and run.recipe.curation_checkpoint:
            # A model may refuse the draft yet.
            run.tally.count("direction_of", f"{candidate.task}-{candidate.identity}", *direction)
    for example, template in phrased:
        if made.split == TRAIN and run.recipe.demonstrations:
            shown = _few_shot(example, made, template, run)
            run.tally.count("demonstrated", by=int(bool(shown.demonstrations)))
            example = shown
        order = hashing.digest(run.recipe.seed, "order", example.id)
        _count_example(example, template, order, run)
        shards = run.side.shards[made.split]
        place = int(int(order, 16) * shards >> 4 * len(order))
        line = json_line(example.to_record()).encode("utf-8", "surrogatepass")
        yield "lines", shard_name(made.split, place, shards), (order + example.id, line)


def _few_shot(
    example: InstructionExample, made: DocumentDrafts, template: Template, run: Run
) -> InstructionExample:
    """The example with solved questions in front, for the recipe's share of examples."""
    recipe = run.recipe
    return with_demonstrations(
        example,
        run.side.pools[example.task],
        document=group_of(made.document),
        template=template,
        count=demonstration_count(
            example.id,
            share=recipe.demonstrations,
            most=recipe.most_demonstrations,
            seed=recipe.seed,
        ),
        seed=recipe.seed,
    )


def _rejected(made: DocumentDrafts, candidate: Candidate, run: Run) -> dict[str, Any]:
    return _example(made, candidate, run).to_record()


def _example(
    made: DocumentDrafts,
    candidate: Candidate,
    run: Run,
    template: Template | None = None,
    holdout: str = "",
    kind: str = "rejected",
) -> InstructionExample:
    """The finished example; `kind`, the hold-out or the phrasing's number, ends its id."""
    document, draft = made.document, candidate.draft
    task = run.recipe.bank[candidate.task]
    instruction, text = ("", draft.input) if template is None else template.render(draft)
    return InstructionExample(
        id=f"{candidate.task}-{candidate.identity}-{kind}",
        task=candidate.task,
        instruction=instruction,
        input=text,
        material="" if text else draft.input,
        target=draft.target,
        references=draft.references,
        options=draft.options,
        template=template.id if template else "",
        split=made.split,
        holdout=holdout,
        target_source=task.target_source,
        provenance=Provenance(
            corpus=document.corpus,
            uri=document.uri,
            span=document.span,
            sha256=document.sha256,
            licence=document.licence,
            generator=task.generator_name,
            seed=run.recipe.seed,
        ),
    )


def _count_example(example: InstructionExample, template: Template, order: str, run: Run) -> None:
    tally, task = run.tally, example.task
    tally.count("examples", task, example.split, example.holdout)
    encoder = few_shot_text(example.demonstrations, example.instruction, example.input)
    tally.count("length", task, "encoder", len(encoder))
    tally.count("length", task, "target", len(example.target))
    tally.count("target_source", example.target_source)
    letter = next(filter(str.isalpha, example.target), "")
    tally.count("script", script_of(letter) if letter else "")
    if example.split == TRAIN:
        tally.count("style", template.style)
    tally.keep(
        "sample", task, example.split, example.holdout, order=order, value=example, most=_SAMPLES
    )
