"""Raw corpora to a finished dataset folder: the stages of a build, in order.

A folder holds dataset.json, shards of JSON lines, rejected.jsonl.gz, datasheet.html and tokenizer/.
The same recipe and raw files give the same bytes, whatever the number of processes.
"""

import fcntl
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from instructrec_jax.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer
from instructrec_jax.data.tokenizer_training import MINIMUM_PIECES, train_tokenizer
from instructrec_jax.errors import ConfigError, DataError, UserError
from instructrec_jax.instructions import datasheet
from instructrec_jax.instructions.assembly import Assembler, Assembly
from instructrec_jax.instructions.construct import units_in_order
from instructrec_jax.instructions.counting import SourceStatistics, count_examples, task_lengths
from instructrec_jax.instructions.example import SPLITS, TRAIN, InstructionExample, encoder_text
from instructrec_jax.instructions.ingredients import differences, recipe_record
from instructrec_jax.instructions.reading import DATASET_FILE, read_dataset_info
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import description_of, title_of
from instructrec_jax.instructions.splitting import LeakAudit, audit
from instructrec_jax.instructions.tasks import TASKS
from instructrec_jax.instructions.workers import Workers
from instructrec_jax.instructions.writing import write_examples, write_json, write_json_lines

FORMAT_VERSION = 1
# Kinds of tokenizers that are made where none is given: trained, or ByT5's.
TOKENIZER_KINDS = ("sentencepiece", "bytes")
# Held-out examples that the tokenizer is judged on.
_TOKENIZER_SAMPLE = 500


@dataclass(frozen=True)
class TokenizerRecipe:
    """Which tokenizer the dataset comes with: the one at `path`, or a new one ("")."""

    path: str
    vocabulary_size: int
    sentinels: int
    kind: str = "sentencepiece"  # of a new one: one of TOKENIZER_KINDS


@dataclass(frozen=True)
class BuildSummary:
    """What a build gave: the folder, whether it was there already, and examples by split."""

    output: Path
    reused: bool
    examples: dict[str, int]


def build_from_config(
    config: ConfigDict, output: Path, progress: Callable[[str], None]
) -> BuildSummary:
    """Build the dataset of a whole configuration; see `build_dataset`."""
    build = dict(config.build)
    processes = build.pop("processes")
    return build_dataset(
        recipe=Recipe(seed=config.seed, **build),
        tokenizer=TokenizerRecipe(**dict(config.tokenizer)),
        processes=processes,
        output=output,
        progress=progress,
    )


def build_dataset(
    *,
    recipe: Recipe,
    tokenizer: TokenizerRecipe,
    processes: int,
    output: Path,
    progress: Callable[[str], None],
) -> BuildSummary:
    """Build a dataset folder, or say that it is there already.

    Everything is written to OUTPUT.partial, which takes its name when it is complete: a build that
    was killed never looks finished. `processes` 0 = one a core. `progress` gets lines for a person.

    Raises:
        ConfigError: a recipe that cannot be followed (all problems at once), an output folder that
            holds something else, or another build of the same folder at work.
        DataError: no example is left.
    """
    given = _checked(recipe, tokenizer, processes)
    record = recipe_record(
        recipe,
        tokenizer=vars(tokenizer),
        tokenizer_sha256=given.sha256 if given is not None else "",
        format_version=FORMAT_VERSION,
    )
    known = _finished(output, record)
    if known is not None:
        progress(f"{output} is there already, built by the same recipe")
        return BuildSummary(output, True, {split: known["examples"][split] for split in SPLITS})
    partial = output.with_name(output.name + ".partial")
    with _claimed(partial):
        try:
            info = _build(recipe, given or tokenizer, record, processes, partial, progress)
        except UserError:
            shutil.rmtree(partial)
            raise
        partial.rename(output)
    return BuildSummary(output, False, {split: info["examples"][split] for split in SPLITS})


def _checked(recipe: Recipe, tokenizer: TokenizerRecipe, processes: int) -> Tokenizer | None:
    """The tokenizer that is given, None where one is to be trained; all problems at once."""
    given = None
    problems = recipe.problems()
    if processes < 0:
        problems.append(f"build.processes: {processes} is below 0, which means one a core")
    if tokenizer.path:
        try:
            given = load_tokenizer(Path(tokenizer.path))
        except ConfigError as error:
            problems.append(f"tokenizer.path: {error}")
    elif tokenizer.sentinels < 0:
        problems.append(f"tokenizer.sentinels: {tokenizer.sentinels} is below 0")
    elif tokenizer.kind not in TOKENIZER_KINDS:
        problems.append(
            f"tokenizer.kind: {tokenizer.kind} is not one of {', '.join(TOKENIZER_KINDS)}"
        )
    elif tokenizer.kind == "bytes":
        given = byte_tokenizer(tokenizer.sentinels)
    elif tokenizer.vocabulary_size < (least := MINIMUM_PIECES + tokenizer.sentinels):
        problems.append(
            f"tokenizer.vocabulary_size: {tokenizer.vocabulary_size} is below {least}, the bytes "
            f"and {tokenizer.sentinels} sentinels"
        )
    if problems:
        raise ConfigError("\n  ".join(["the dataset cannot be built:", *problems]))
    return given


def _build(
    recipe: Recipe,
    tokenizer_recipe: TokenizerRecipe | Tokenizer,
    record: dict[str, Any],
    processes: int,
    folder: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    # ---- Raw corpora → documents → drafts -------------------------------------------------------
    assembler = Assembler(recipe)
    sources = {source: SourceStatistics() for source in recipe.used_sources}
    with Workers(recipe, processes=processes) as workers:
        for source, statistics in sources.items():
            _collect(source, workers, recipe, assembler, statistics, progress)

    # ---- Drafts → filters → examples ------------------------------------------------------------
    start = time.monotonic()
    assembly = assembler.assemble()
    examples = assembly.examples
    if not any(example.split == TRAIN for example in examples):
        raise DataError("the recipe leaves no example to train on: widen its limits and sources")
    leaks = _audited(assembly, recipe)
    _say_tasks(assembly, time.monotonic() - start, progress)

    # ---- Train split → tokenizer ----------------------------------------------------------------
    start = time.monotonic()
    tokenizer = _tokenizer(tokenizer_recipe, examples, seed=recipe.seed, progress=progress)
    tokenizer.save(folder / "tokenizer")
    judged = _judge_tokenizer(tokenizer, examples)
    progress(
        f"tokenizer: {tokenizer.vocabulary_size:,} pieces, {judged['characters_per_token']:.2f} "
        f"characters a token, {time.monotonic() - start:.1f} s"
    )

    # ---- Examples → folder ----------------------------------------------------------------------
    start = time.monotonic()
    files = write_examples(folder, examples)
    rejected = ({"reason": reason, "record": e.to_record()} for reason, e in assembly.rejects)
    digest = write_json_lines(folder / "rejected.jsonl.gz", rejected)
    files["rejected.jsonl.gz"] = {"examples": len(assembly.rejects), "sha256": digest}
    info = {
        "format_version": FORMAT_VERSION,
        **record,
        **_counts(assembly),
        "leak_audit": vars(leaks),
        "documents": sum(statistics.documents for statistics in sources.values()),
        "sources": {
            source: {
                "title": title_of(source, recipe),
                "description": description_of(source, recipe),
                **statistics.to_record(),
            }
            for source, statistics in sources.items()
        },
        "tokenizer": judged,
        "files": files,
    }
    page = datasheet.render(info=info, assembly=assembly)
    (folder / "datasheet.html").write_text(page, encoding="utf-8")
    write_json(folder / DATASET_FILE, info)
    progress(f"wrote {len(files)} files and the datasheet, {time.monotonic() - start:.1f} s")
    return info


def _collect(
    source: str,
    workers: Workers,
    recipe: Recipe,
    assembler: Assembler,
    statistics: SourceStatistics,
    progress: Callable[[str], None],
) -> None:
    """Construct all drafts of a corpus."""
    start = time.monotonic()
    units = units_in_order(source, recipe)
    drafts = 0
    with _bar(title_of(source, recipe), total=len(units)) as advance:
        for documents in workers.construct(source, units):
            for item in documents:
                statistics.add(item)
                drafts += len(item.candidates)
            assembler.add(documents)
            advance()
    progress(
        f"{source}: {statistics.documents:,} documents, {drafts:,} drafts, "
        f"{time.monotonic() - start:.1f} s"
    )


def _say_tasks(assembly: Assembly, seconds: float, progress: Callable[[str], None]) -> None:
    by_task = Counter(example.task for example in assembly.examples)
    widest = max(map(len, assembly.templates))
    for task in assembly.templates:
        refused = ", ".join(
            f"{count:,} {reason}" for reason, count in assembly.rejected[task].most_common(3)
        )
        line = f"  {task:<{widest}}  {by_task[task]:>7,} examples"
        progress(line + (f"   refused: {refused}" if refused else ""))
    splits = Counter(example.split for example in assembly.examples)
    told = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS)
    progress(f"{len(assembly.examples):,} examples ({told}); no leak found, {seconds:.1f} s")


def _audited(assembly: Assembly, recipe: Recipe) -> LeakAudit:
    leaks = audit(
        assembly.examples,
        held_out_templates=frozenset(
            template.id for templates in assembly.held_out.values() for template in templates
        ),
        held_out_tasks=frozenset(recipe.holdout_tasks),
    )
    if not leaks.sound:
        raise AssertionError(f"held-out data leaked into another split: {leaks}")
    return leaks


def _tokenizer(
    recipe: TokenizerRecipe | Tokenizer,
    examples: list[InstructionExample],
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Tokenizer:
    if not isinstance(recipe, TokenizerRecipe):
        return recipe

    def texts() -> Iterator[str]:
        for example in examples:
            if example.split == TRAIN:
                yield encoder_text(example.instruction, example.input)
                yield example.target

    return train_tokenizer(
        texts(),
        vocabulary_size=recipe.vocabulary_size,
        sentinels=recipe.sentinels,
        seed=seed,
        progress=progress,
    )


def _judge_tokenizer(tokenizer: Tokenizer, examples: list[InstructionExample]) -> dict[str, Any]:
    """Size and hash of the tokenizer, and how it does on examples that it was not trained on."""
    held_out = [example for example in examples if example.split != TRAIN] or examples
    sample = held_out[:_TOKENIZER_SAMPLE]
    texts = [encoder_text(e.instruction, e.input) + "\n" + e.target for e in sample]
    tokens = [token for ids in tokenizer.encode_batch(texts) for token in ids]
    return {
        "sha256": tokenizer.sha256,
        "vocabulary_size": tokenizer.vocabulary_size,
        "sample": len(sample),
        "characters_per_token": round(sum(map(len, texts)) / max(1, len(tokens)), 4),
        "unknown_share": tokens.count(tokenizer.unk_id) / max(1, len(tokens)),
    }


def _counts(assembly: Assembly) -> dict[str, Any]:
    """Counts of examples, drafts, refusals, templates and languages, as dataset.json holds them."""
    by_task = count_examples(assembly.examples)
    splits = Counter(example.split for example in assembly.examples)
    measured = task_lengths(assembly.examples)
    reasons: Counter[str] = sum(assembly.rejected.values(), Counter())
    held_out = {task: [t.id for t in kept] for task, kept in assembly.held_out.items()}
    return {
        "examples": {
            **{split: splits[split] for split in SPLITS},
            "total": len(assembly.examples),
        },
        "funnel": {
            "drafts": assembly.drafts.total(),
            "rejected": reasons.total(),
            "accepted": assembly.accepted.total(),
        },
        "rejected_by_reason": dict(sorted(reasons.items())),
        "tasks": {
            task: {
                "target_source": TASKS[task].target_source,
                "kinds": list(TASKS[task].kinds),
                "examples": by_task.get(task, {}),
                "drafts": assembly.drafts[task],
                "accepted": assembly.accepted[task],
                "rejected": dict(sorted(assembly.rejected[task].items())),
                "lengths": measured.get(task, {}),
                "held_out_templates": held_out[task],
            }
            for task in assembly.templates
        },
        "templates": {
            "total": sum(map(len, assembly.templates.values())),
            "held_out": sum(map(len, assembly.held_out.values())),
        },
        "languages": _languages(assembly),
    }


def _languages(assembly: Assembly) -> list[dict[str, Any]]:
    names = {name for pair in assembly.directions for name in pair} - {"English"}
    rows = [
        {
            "name": name,
            "from_english": assembly.directions["English", name],
            "to_english": assembly.directions[name, "English"],
        }
        for name in sorted(names)
    ]
    return sorted(rows, key=lambda row: -row["from_english"] - row["to_english"])


def _finished(output: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands in the folder's dataset.json if it is this recipe's; None where there is nothing.

    Raises:
        ConfigError: the folder holds another dataset, or something that is no dataset.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        info = read_dataset_info(output)
    except DataError as error:
        raise ConfigError(
            f"{output} exists and is no finished dataset; name another --output or remove it"
        ) from error
    changed = differences(record, info)
    if not changed:
        return info
    raise ConfigError(
        f"{output} holds a dataset of another recipe (differs in {', '.join(changed)}); "
        "name another --output or remove it"
    )


@contextmanager
def _claimed(partial: Path) -> Iterator[None]:
    """Make the folder, empty, and keep other builds out of it as long as this process lives."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{partial} cannot be made: {error.strerror}") from error
    folder = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in partial.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        yield
    except BlockingIOError as error:
        raise ConfigError(f"another build is writing {partial}") from error
    finally:
        os.close(folder)


@contextmanager
def _bar(title: str, *, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over units on a terminal, nothing elsewhere; yields the call for a step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    shown = sys.stderr.isatty()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown
    ) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
