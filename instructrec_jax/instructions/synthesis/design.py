"""Instructions for a task from its examples alone: proposed, scored by a checkpoint, the best kept.

The choice is that of the automatic prompt engineer (Zhou et al. 2022, arXiv 2211.01910): the mean
log-likelihood of held-out targets under each candidate. Candidates that do no better than no
instruction, or than instructions of other tasks, are refused; so are those like a better one.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from instructrec_jax.errors import ConfigError, DataError, nearest
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.sources import records
from instructrec_jax.instructions.sources.corpus import Corpus, corpus_of
from instructrec_jax.instructions.synthesis.curation import (
    flipped_margin,
    instruction_following_difficulty,
    log_likelihood_per_token,
)
from instructrec_jax.instructions.synthesis.grammar import (
    Proposal,
    propose,
    rouge_l,
    wrong_instructions,
)
from instructrec_jax.instructions.synthesis.likelihood import Judge
from instructrec_jax.instructions.synthesis.traits import Pair, Traits, traits_of
from instructrec_jax.instructions.writing import write_json

# Names under which inputs and targets stand in records of other people's, the likeliest first.
_INPUT_FIELDS = ("input", "context", "source", "text", "question", "prompt", "document", "body")
_TARGET_FIELDS = ("target", "output", "response", "completion", "answer", "label", "summary")
# Pairs that a task's traits are taken from.
_MOST_PAIRS = 2_000


@dataclass(frozen=True)
class DesignSettings:
    """`keep` instructions of `candidates`, by `examples` held-out pairs of a task.

    No two that are kept have a ROUGE-L above `max_similarity`, and no style has more than
    `max_style_share` of them.
    """

    seed: int = 0
    keep: int = 10
    candidates: int = 200
    examples: int = 32
    max_similarity: float = 0.7
    max_style_share: float = 0.4

    def problems(self) -> list[str]:
        """Everything that is wrong with the settings, one line each."""
        least = {"keep": 1, "candidates": 1, "examples": 1}
        found = [f"{key}: {getattr(self, key)} is below 1" for key in least if vars(self)[key] < 1]
        found += [
            f"{key}: {getattr(self, key)} is not in (0, 1]"
            for key in ("max_similarity", "max_style_share")
            if not 0 < getattr(self, key) <= 1
        ]
        return found


@dataclass(frozen=True)
class TaskExamples:
    """The pairs of one task, and the columns that they stood in ("" = unknown)."""

    task: str
    pairs: tuple[Pair, ...]
    input_field: str = ""
    target_field: str = ""


@dataclass(frozen=True)
class Scored:
    """An instruction and what a judge says of it, in nats a token over the held-out pairs.

    `log_likelihood` of the targets; `over_none` and `over_wrong`: by how much that is more than
    without an instruction, and than under other tasks' instructions on average; `ifd`: the mean of
    PPL(y | q, x) / PPL(y). `reason` says why it is not kept, "" where it is.
    """

    proposal: Proposal
    log_likelihood: float
    over_none: float
    over_wrong: float
    ifd: float
    reason: str = ""


def read_tasks(
    path: str, *, fields: Mapping[str, str], progress: Callable[[str], None]
) -> list[TaskExamples]:
    """The pairs of each task of a dataset folder, instruction file, or table of records.

    A file of records is JSON lines, JSON, CSV, TSV or Parquet. `fields` maps "input" and "target"
    to columns; {} = by the columns' names. A column `task` names the task, else the file does.
    `progress` is told how many rows are of no use, and why.

    Raises:
        ConfigError: no telling which columns are meant.
        DataError: nothing to read.
    """
    if Path(path).is_dir():
        return _tasks_of_dataset(path)
    corpus = corpus_of(
        {"name": Path(path).name.partition(".")[0], "reader": "records", "path": path},
        options=records.OPTIONS,
    )
    if problems := records.problems(corpus):
        raise DataError(f"{path}: {problems[0]}")
    return _tasks_of_records(corpus, fields, progress)


def score_proposals(
    proposals: Sequence[Proposal], pairs: Sequence[Pair], judge: Judge, *, task_type: str
) -> list[Scored]:
    """Each proposal with its scores on the pairs, in order."""
    wrong = wrong_instructions(task_type)
    instructions = [*(proposal.text for proposal in proposals), "", *wrong]
    requests = [
        (encoder_text(instruction, pair.input), pair.target)
        for instruction in instructions
        for pair in pairs
    ]
    found = judge.score([*requests, *(("", pair.target) for pair in pairs)])
    rows = [found[start : start + len(pairs)] for start in range(0, len(found), len(pairs))]
    of_proposals, none = rows[: len(proposals)], rows[len(proposals)]
    of_wrong, alone = rows[len(proposals) + 1 : -1], rows[-1]
    scored = []
    for proposal, row in zip(proposals, of_proposals, strict=True):
        ratios = [
            instruction_following_difficulty(given, bare)
            for given, bare in zip(row, alone, strict=True)
        ]
        margins = [
            flipped_margin(given, [others[place] for others in of_wrong])
            for place, given in enumerate(row)
        ]
        likelihood = log_likelihood_per_token(row)
        scored.append(
            Scored(
                proposal=proposal,
                log_likelihood=likelihood,
                over_none=likelihood - log_likelihood_per_token(none),
                over_wrong=sum(margins) / len(margins),
                ifd=sum(ratios) / len(ratios),
            )
        )
    return scored


def select(scored: Sequence[Scored], settings: DesignSettings) -> list[Scored]:
    """All of them, the most likely first, each with the reason why it is not kept."""
    most_of_style = math.ceil(settings.keep * settings.max_style_share)
    styles: Counter[str] = Counter()
    decided: list[Scored] = []
    kept: list[Scored] = []
    for each in sorted(scored, key=lambda item: (-item.log_likelihood, item.proposal.id)):
        reason = ""
        if each.over_none <= 0:
            reason = "no_better_than_none"
        elif each.over_wrong <= 0:
            reason = "no_better_than_wrong"
        elif any(
            rouge_l(each.proposal.text, other.proposal.text) > settings.max_similarity
            for other in kept
        ):
            reason = "like_a_better_one"
        elif len(kept) == settings.keep:
            reason = "not_among_the_best"
        elif styles[each.proposal.style] == most_of_style:
            reason = "enough_of_its_style"
        decided.append(replace(each, reason=reason))
        if not reason:
            kept.append(each)
            styles[each.proposal.style] += 1
    return decided


def design_instructions(
    tasks: Sequence[TaskExamples],
    output: Path,
    *,
    judge: Judge | None,
    settings: DesignSettings,
    progress: Callable[[str], None],
) -> dict[str, list[Scored]]:
    """Write OUTPUT/TASK.toml, a file of templates, for each task, and OUTPUT/scores.json.

    Without a judge the grammar's order decides, and nothing is scored.

    Raises:
        ConfigError: settings that cannot be met, or files that are there already.
    """
    if problems := settings.problems():
        raise ConfigError("\n  ".join(["instructions cannot be designed:", *problems]))
    files = {each.task: output / f"{_file_name(each.task)}.toml" for each in tasks}
    taken = [path for path in (*files.values(), output / "scores.json") if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} is there already; name another --output or remove it")
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Scored]] = {}
    report: dict[str, Any] = {"judge": judge.name if judge else "", "settings": asdict(settings)}
    for each in tasks:
        traits, decided = design_task(each, judge=judge, settings=settings)
        results[each.task] = decided
        kept = [item for item in decided if not item.reason]
        text = templates_text(each.task, kept, judge=judge, traits=traits)
        files[each.task].write_text(text, encoding="utf-8")
        report[each.task] = {
            "traits": asdict(traits),
            "candidates": [asdict(i) if judge else asdict(i.proposal) for i in decided],
        }
        refused = Counter(item.reason for item in decided if item.reason)
        told = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
        progress(
            f"{each.task}: {traits.task_type}, {len(decided)} candidates, {len(kept)} kept"
            + (f"   refused: {told}" if told else "")
        )
        progress(f"  {files[each.task]}")
    write_json(output / "scores.json", report)
    return results


def design_task(
    examples: TaskExamples, *, judge: Judge | None, settings: DesignSettings
) -> tuple[Traits, list[Scored]]:
    """The traits of one task, and its candidates, decided, the best first."""
    in_order = sorted(
        dict.fromkeys(examples.pairs),
        key=lambda pair: hashing.digest(settings.seed, "design", pair.input, pair.target),
    )
    # What candidates are scored on is not what they were read off, where there is enough.
    held_out, rest = in_order[: settings.examples], in_order[settings.examples :]
    traits = traits_of((rest if len(rest) >= len(held_out) else in_order)[:_MOST_PAIRS])
    proposals = propose(
        traits,
        input_field=examples.input_field,
        target_field=examples.target_field,
        limit=settings.candidates,
    )
    if judge is None:
        # A likelihood that only keeps the grammar's order, and margins that refuse nothing.
        scored = [
            Scored(proposal, log_likelihood=-place, over_none=1, over_wrong=1, ifd=0)
            for place, proposal in enumerate(proposals)
        ]
    else:
        scored = score_proposals(proposals, held_out, judge, task_type=traits.task_type)
    return traits, select(scored, settings)


def templates_text(
    task: str, kept: Sequence[Scored], *, judge: Judge | None, traits: Traits
) -> str:
    """A file of templates as the template bank reads it, each line's scores behind it."""
    lines = [
        f"# Instructions proposed for the task {task}, of the type {traits.task_type}.",
        f"# Scored by {judge.name}:" if judge else "# Not scored: no checkpoint was given.",
    ]
    if judge:
        lines.append("# log-likelihood a token; over none; over wrong instructions; IFD.")
    lines.append("templates = [")
    for each in kept:
        text = each.proposal.text
        if re.search(r"{[{%#]", text):
            text = "{% raw %}" + text + "{% endraw %}"
        line = f'  {{ id = "{each.proposal.id}", style = "{each.proposal.style}", '
        # JSON's escapes are TOML's, but for the character that JSON leaves as it is.
        line += f"text = {json.dumps(text, ensure_ascii=False)} }},".replace("\x7f", "\\u007f")
        if judge:
            line += (
                f"  # {each.log_likelihood:.3f}; {each.over_none:+.3f}; "
                f"{each.over_wrong:+.3f}; {each.ifd:.3f}"
            )
        lines.append(line)
    return "\n".join([*lines, "]", ""])


def _tasks_of_dataset(path: str) -> list[TaskExamples]:
    pairs: dict[str, list[Pair]] = {}
    for example in read_examples(path, split="train"):
        of_task = pairs.setdefault(example.task, [])
        if len(of_task) < _MOST_PAIRS:
            of_task.append(Pair(example.material or example.input, example.target))
    return [TaskExamples(task, tuple(found)) for task, found in pairs.items()]


def _tasks_of_records(
    corpus: Corpus, fields: Mapping[str, str], progress: Callable[[str], None]
) -> list[TaskExamples]:
    pairs: dict[str, list[Pair]] = {}
    columns: tuple[str, str] | None = None
    unreadable: Counter[str] = Counter()
    for unit in records.units(corpus):
        for found in records.documents(corpus, unit):
            if isinstance(found, Unreadable):
                unreadable[found.reason] += 1
                continue
            row = found.content["columns"]
            columns = columns or _columns(row, fields, place=corpus.path)
            text, target = (row.get(column, "") for column in columns)
            if not target.strip():
                unreadable["empty_target"] += 1
            elif len(of_task := pairs.setdefault(row.get("task") or corpus.name, [])) < _MOST_PAIRS:
                of_task.append(Pair(text, target))
    told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(unreadable.items()))
    if columns is None or not pairs:
        raise DataError(f"{corpus.path}: no examples" + (f"; refused: {told}" if told else ""))
    if told:
        progress(f"{corpus.path}: rows left out: {told}")
    return [TaskExamples(task, tuple(found), *columns) for task, found in pairs.items()]


def _columns(row: Mapping[str, str], fields: Mapping[str, str], *, place: str) -> tuple[str, str]:
    """The columns of input and target."""
    for name, column in fields.items():
        if name not in ("input", "target"):
            raise ConfigError(f"--fields: {name!r} is neither input nor target")
        if column not in row:
            raise ConfigError(
                f"--fields: {place} has no column {column!r}{nearest(column, row)}; it has "
                f"{', '.join(row)}"
            )
    text = fields.get("input") or next((name for name in _INPUT_FIELDS if name in row), "")
    target = fields.get("target") or next((name for name in _TARGET_FIELDS if name in row), "")
    if not text or not target:
        raise ConfigError(
            f"{place}: which columns are meant? It has {', '.join(row)}; say "
            "--fields='input:COLUMN|target:COLUMN'"
        )
    return text, target


def _file_name(task: str) -> str:
    return re.sub(r"[^\w\-]+", "_", task) or "task"
