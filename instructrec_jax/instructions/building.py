"""Raw corpora to a finished dataset folder: the stages of a build, in order.

A folder holds dataset.json, shards of JSON lines, rejected.jsonl.gz, datasheet.html and tokenizer/.
The same recipe and raw files give the same bytes, whatever the number of processes, also when the
build was killed and run again, and on Apache Beam.
"""

import importlib.util
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from instructrec_jax.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer
from instructrec_jax.data.tokenizer_training import MINIMUM_PIECES, train_tokenizer
from instructrec_jax.errors import ConfigError, DataError, UserError
from instructrec_jax.instructions import datasheet
from instructrec_jax.instructions.audit import LeakAudit, NearLeaks, audit, near_leaks
from instructrec_jax.instructions.counting import counts, why_nothing_is_left
from instructrec_jax.instructions.curated_train import curate_train
from instructrec_jax.instructions.example import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    InstructionExample,
    encoder_text,
)
from instructrec_jax.instructions.flow import Run
from instructrec_jax.instructions.ingredients import recipe_record
from instructrec_jax.instructions.local_runner import run_locally
from instructrec_jax.instructions.output_folder import claimed, finished, progress_bar
from instructrec_jax.instructions.phrasings import Phrasings, unseen_task
from instructrec_jax.instructions.reading import DATASET_FILE
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.rejects import write_rejected
from instructrec_jax.instructions.sources import description_of, title_of
from instructrec_jax.instructions.synthesis.likelihood import Judge, load_judge
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.workers import StoppedError, stopped_in_a_line
from instructrec_jax.instructions.writing import collect_shards, read_split, write_json

FORMAT_VERSION = 1
# Kinds of tokenizers that are made where none is given: trained, or ByT5's.
TOKENIZER_KINDS = ("sentencepiece", "bytes")
RUNNERS = ("local", "beam")
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
class Work:
    """Who does the work of a build; the dataset does not depend on it.

    `processes` of the local runner, 0 = one a core; `beam_options` are Beam's own.
    """

    processes: int = 0
    runner: str = "local"
    beam_options: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with it, one line each."""
        found = []
        if self.processes < 0:
            found.append(f"build.processes: {self.processes} is below 0, which means one a core")
        if self.runner not in RUNNERS:
            found.append(f"--runner: {self.runner!r} is not one of {', '.join(RUNNERS)}")
        elif self.runner == "beam" and importlib.util.find_spec("apache_beam") is None:
            found.append(
                "--runner=beam: Apache Beam is missing: pip install 'instructrec_jax[beam]'"
            )
        return found


@dataclass(frozen=True)
class BuildSummary:
    """What a build gave: the folder, whether it was there already, and examples by split."""

    output: Path
    reused: bool
    examples: dict[str, int]


def build_from_config(
    config: ConfigDict,
    output: Path,
    progress: Callable[[str], None],
    *,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> BuildSummary:
    """Build the dataset of a whole configuration; see `build_dataset`."""
    build = dict(config.build)
    processes = build.pop("processes")
    return build_dataset(
        recipe=Recipe(seed=config.seed, **build),
        tokenizer=TokenizerRecipe(**dict(config.tokenizer)),
        work=Work(processes, runner, tuple(beam_options)),
        output=output,
        progress=progress,
    )


def build_dataset(
    *,
    recipe: Recipe,
    tokenizer: TokenizerRecipe,
    work: Work,
    output: Path,
    progress: Callable[[str], None],
) -> BuildSummary:
    """Build a dataset folder, or say that it is there already.

    Everything is written to OUTPUT.partial, which takes its name when it is complete: a build that
    was killed never looks finished, and goes on when it is run again. `progress` gets lines for a
    person.

    Raises:
        ConfigError: a recipe that cannot be followed (all problems at once), an output folder that
            holds something else, or another build of the same folder at work.
        DataError: no example is left, or the build was stopped by a lack of memory, of room on the
            disk or of a file (then a `StoppedError`, and what is done is kept).
    """
    given = _checked(recipe, tokenizer, work)
    judge = load_judge(recipe.curation_checkpoint) if recipe.curation_checkpoint else None
    record = recipe_record(
        recipe,
        tokenizer=vars(tokenizer),
        tokenizer_sha256=given.sha256 if given is not None else "",
        format_version=FORMAT_VERSION,
        curation_fingerprint=judge.fingerprint if judge else "",
    )
    known = finished(output, record)
    if known is not None:
        progress(f"{output} is there already, built by the same recipe")
        return BuildSummary(output, True, {split: known["examples"][split] for split in SPLITS})
    partial = output.with_name(output.name + ".partial")
    spool = partial / f"{work.runner}-{record['recipe_sha256'][:16]}"
    with claimed(partial, kept=spool):
        try:
            with stopped_in_a_line(partial):
                info = _build(
                    recipe, given or tokenizer, judge, record, work, partial, spool, progress
                )
        except StoppedError:
            raise
        except UserError:
            shutil.rmtree(partial)
            raise
        shutil.rmtree(spool)
        partial.rename(output)
    return BuildSummary(output, False, {split: info["examples"][split] for split in SPLITS})


def _checked(recipe: Recipe, tokenizer: TokenizerRecipe, work: Work) -> Tokenizer | None:
    """The tokenizer that is given, None where one is to be trained; all problems at once."""
    given = None
    problems = recipe.problems() + work.problems()
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
    judge: Judge | None,
    record: dict[str, Any],
    work: Work,
    folder: Path,
    spool: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    # ---- Raw corpora → documents → drafts → decisions → phrased examples → shards ---------------
    # The stages are the table in pipeline.py.
    start = time.monotonic()
    tally = _run_stages(recipe, work, spool, progress)
    phrasings = Phrasings.of(recipe)
    files = collect_shards(spool / "files", folder, dict(tally.records("file")))
    if not any(key[1] == TRAIN and count for key, count in tally.of("examples")):
        raise DataError(
            f"the recipe leaves no example to train on: {why_nothing_is_left(tally)}. Widen the "
            "limits, filters, licences or sources that took the most"
        )
    if judge is not None:
        run = Run(recipe, tally)
        curate_train(folder, files, run=run, judge=judge, spool=spool, progress=progress)
    counted = counts(tally, recipe, phrasings)
    files |= write_rejected(spool / "files", folder, tally)
    _say_tasks(counted, time.monotonic() - start, progress)

    # ---- Finished files → leak audit ------------------------------------------------------------
    leaks, near = _audited(folder, recipe, phrasings, progress)

    # ---- Train split → tokenizer ----------------------------------------------------------------
    start = time.monotonic()
    tokenizer = _tokenizer(tokenizer_recipe, folder, seed=recipe.seed, progress=progress)
    tokenizer.save(folder / "tokenizer")
    judged = _judge_tokenizer(tokenizer, folder)
    progress(
        f"tokenizer: {tokenizer.vocabulary_size:,} pieces, {judged['characters_per_token']:.2f} "
        f"characters a token, {time.monotonic() - start:.1f} s"
    )

    # ---- Counts → dataset.json and datasheet ----------------------------------------------------
    for source, entry in counted["sources"].items():
        titles = {"title": title_of(source, recipe), "description": description_of(source, recipe)}
        counted["sources"][source] = titles | entry
    info = {
        "format_version": FORMAT_VERSION,
        **record,
        **counted,
        "leak_audit": vars(leaks),
        "near_leaks": asdict(near),
        "tokenizer": judged,
        "files": files,
    }
    page = datasheet.render(info=info, tally=tally, phrasings=phrasings)
    (folder / "datasheet.html").write_text(page, encoding="utf-8")
    write_json(folder / DATASET_FILE, info)
    return info


def _run_stages(recipe: Recipe, work: Work, spool: Path, progress: Callable[[str], None]) -> Tally:
    """Work through all stages; finished files go to spool/files."""
    files, is_beam = spool / "files", work.runner == "beam"
    # Its owner alone may read it: nothing is masked there, since filters judge drafts as they are.
    # (Beam's workers may be other users.)
    spool.mkdir(mode=0o777 if is_beam else 0o700, exist_ok=True)
    files.mkdir(exist_ok=True)
    if is_beam:
        from instructrec_jax.instructions.beam_runner import run_on_beam

        return run_on_beam(recipe, options=work.beam_options, folder=spool, files=files)
    last = time.monotonic()

    def said(source: str, part: Tally) -> None:
        nonlocal last
        seconds, last = time.monotonic() - last, time.monotonic()
        drafts = sum(count for _, count in part.of("drafts"))
        unreadable = part.counter("unreadable", source).total()
        told = f", {unreadable:,} unreadable" if unreadable else ""
        progress(
            f"{source}: {part.counts['documents', source]:,} documents, {drafts:,} drafts{told}, "
            f"{seconds:.1f} s"
        )

    return run_locally(
        recipe, processes=work.processes, folder=spool, files=files, bar=progress_bar, said=said
    )


def _say_tasks(counted: dict[str, Any], seconds: float, progress: Callable[[str], None]) -> None:
    widest = max(map(len, counted["tasks"]))
    for task, entry in counted["tasks"].items():
        examples = sum(sum(held.values()) for held in entry["examples"].values())
        refused = ", ".join(
            f"{count:,} {reason}" for reason, count in Counter(entry["rejected"]).most_common(3)
        )
        line = f"  {task:<{widest}}  {examples:>7,} examples"
        progress(line + (f"   refused: {refused}" if refused else ""))
    told = ", ".join(f"{counted['examples'][split]:,} {split}" for split in SPLITS)
    progress(f"{counted['examples']['total']:,} examples ({told}), {seconds:.1f} s")
    if counted["missing_examples"]:
        progress(f"warning: too few documents for tasks with {counted['missing_examples']}")


def _audited(
    folder: Path, recipe: Recipe, phrasings: Phrasings, progress: Callable[[str], None]
) -> tuple[LeakAudit, NearLeaks]:
    start = time.monotonic()
    leaks = audit(
        lambda split: read_split(folder, split),
        held_out_templates=frozenset(
            template.id for templates in phrasings.held_out.values() for template in templates
        ),
        held_out_tasks=frozenset(t for t in recipe.chosen_tasks if unseen_task(t, recipe)),
    )
    if not leaks.sound:
        raise AssertionError(f"held-out data leaked into another split: {leaks}")
    near = near_leaks(
        lambda split: read_split(folder, split),
        similarity=recipe.filters.near_duplicate_similarity,
        words=recipe.filters.near_duplicate_words,
    )
    progress(
        f"no leak found; {near.found:,} of {near.held_out_texts:,} held-out texts have a "
        f"near-duplicate among {near.train_texts:,} of train, {time.monotonic() - start:.1f} s"
    )
    return leaks, near


def _tokenizer(
    recipe: TokenizerRecipe | Tokenizer,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Tokenizer:
    if not isinstance(recipe, TokenizerRecipe):
        return recipe

    def texts() -> Iterator[str]:
        for example in read_split(folder, TRAIN):
            yield encoder_text(example.instruction, example.input)
            yield example.target

    return train_tokenizer(
        texts(),
        vocabulary_size=recipe.vocabulary_size,
        sentinels=recipe.sentinels,
        seed=seed,
        progress=progress,
    )


def _judge_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Size and hash of the tokenizer, and how it does on examples that it was not trained on."""
    splits = (read_split(folder, split) for split in (TEST, VALIDATION, TRAIN))
    sample: list[InstructionExample] = []
    for examples in (chain(next(splits), next(splits)), next(splits)):
        sample = sample or list(islice(examples, _TOKENIZER_SAMPLE))
    texts = [encoder_text(e.instruction, e.input) + "\n" + e.target for e in sample]
    tokens = [token for ids in tokenizer.encode_batch(texts) for token in ids]
    return {
        "sha256": tokenizer.sha256,
        "vocabulary_size": tokenizer.vocabulary_size,
        "sample": len(sample),
        "characters_per_token": round(sum(map(len, texts)) / max(1, len(tokens)), 4),
        "unknown_share": tokens.count(tokenizer.unk_id) / max(1, len(tokens)),
    }
