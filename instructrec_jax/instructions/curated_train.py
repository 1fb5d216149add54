"""The last filters, which need a model: train questions that a checkpoint objects to leave train.

Only where `build.curation_checkpoint` names one. They read the finished train shards, so that no
other build waits for JAX; held-out data is never chosen by a model. A question is judged in its
first phrasing and goes with all of them. What was measured is kept while the build is unfinished.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from instructrec_jax.errors import DataError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import TRAIN, InstructionExample
from instructrec_jax.instructions.few_shot import few_shot_text
from instructrec_jax.instructions.filters import FilterSettings, script_of
from instructrec_jax.instructions.flow import Run
from instructrec_jax.instructions.output_folder import progress_bar
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.rejects import REJECTED, write_reject
from instructrec_jax.instructions.sources import kind_of
from instructrec_jax.instructions.synthesis.curation import (
    CurationSettings,
    CurationVerdict,
    Measures,
    measure,
    verdicts,
)
from instructrec_jax.instructions.synthesis.likelihood import Judge
from instructrec_jax.instructions.writing import gzipped, read_split, write_gzipped

# Examples between two lines in the file of measures.
_PORTION = 256
# Counts of what is left alone; others may well be 0.
_COUNTED_BACK = ("examples", "length", "target_source", "script", "style", "direction")
# Behind the parts of rejected.jsonl.gz that are called by two hexadecimal digits.
_REJECTS_PART = f"{REJECTED}.zz"


def curate_train(
    folder: Path,
    files: dict[str, Any],
    *,
    run: Run,
    judge: Judge,
    spool: Path,
    progress: Callable[[str], None],
) -> None:
    """Take what the judge objects to out of the train shards, their entries and the run's tally.

    Args:
        folder: of the finished shards.
        files: their entries in dataset.json; those of train change.
        run: with the recipe, and the tally of all stages.
        judge: the model of `build.curation_checkpoint`.
        spool: folder of the build's unfinished work.
        progress: takes lines for a person.

    Raises:
        DataError: nothing is left to train on.
    """
    settings = settings_of(run.recipe.filters)
    tasks: dict[str, str] = {}
    for example in _first_phrasings(folder):
        tasks[draft_of(example)] = example.task
    found = verdicts(_measured(folder, judge, spool, len(tasks)), tasks, settings)
    refused = {name: verdict for name, verdict in found.items() if verdict.reason}
    if len(refused) == len(tasks):
        raise DataError(f"the curation by {judge.name} leaves no example to train on")
    changes = _Changes(run)
    for name in [name for name in files if name.startswith(f"{TRAIN}-")]:
        kept = list(_kept(folder / name, refused, changes))
        files[name] = {"examples": len(kept), "sha256": write_gzipped(folder / name, kept)}
    changes.finish()
    if changes.rejects:
        (spool / "files" / _REJECTS_PART).write_bytes(gzipped(changes.rejects))
        run.tally.count("rejects_written", by=len(changes.rejects))
    counts = Counter(verdict.reason for verdict in refused.values())
    told = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "none"
    progress(f"curated by {judge.name}: of {len(tasks):,} train questions refused: {told}")


def settings_of(filters: FilterSettings) -> CurationSettings:
    """The thresholds, where filters are switched off without bound."""
    defaults = CurationSettings()
    return CurationSettings(
        max_ifd=defaults.max_ifd if filters.uses("ifd") else math.inf,
        min_ifd=-math.inf,
        min_margin=-math.inf,
        max_outlier=defaults.max_outlier if filters.uses("nll_outlier") else 0.0,
    )


def draft_of(example: InstructionExample) -> str:
    """The id without the number of the phrasing."""
    return example.id.rpartition("-")[0]


def _first_phrasings(folder: Path) -> Iterator[InstructionExample]:
    return (example for example in read_split(folder, TRAIN) if example.id.endswith("-0"))


def _measured(folder: Path, judge: Judge, spool: Path, count: int) -> dict[str, Measures]:
    """What the judge finds in each question; what a killed build has found is taken from disk."""
    path = spool / f"curation-{hashing.digest(judge.fingerprint)}.jsonl"
    measures: dict[str, Measures] = {}
    whole = 0
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            name, nll, ifd = json.loads(line)
            measures[name] = Measures(nll, ifd, 0.0)
            whole += len(line)
    left = (each for each in _first_phrasings(folder) if draft_of(each) not in measures)
    with open(path, "ab") as file, progress_bar("curation", lambda: count) as advance:
        file.truncate(whole)
        advance(len(measures))
        while portion := list(islice(left, _PORTION)):
            found = measure(portion, judge, wrong=lambda example: ())
            for example in portion:
                name, measured = draft_of(example), found[example.id]
                measures[name] = measured
                file.write(json.dumps([name, measured.nll, measured.ifd]).encode() + b"\n")
            file.flush()
            advance(len(portion))
    return measures


def _kept(shard: Path, refused: dict[str, CurationVerdict], changes: "_Changes") -> Iterator[bytes]:
    """The lines that stay; the others go to the changes."""
    for line, example in _lines_of(shard):
        verdict = refused.get(draft_of(example))
        changes.see(example, stays=verdict is None)
        if verdict is None:
            yield line
        else:
            changes.refuse(example, verdict)


def _lines_of(shard: Path) -> Iterator[tuple[bytes, InstructionExample]]:
    """The lines of a shard, which may be empty, each with its example."""
    lines = gzip.decompress(shard.read_bytes()).splitlines(keepends=True)
    if lines:
        yield from zip(lines, read_examples(shard), strict=True)


class _Changes:
    """What leaves train: counted back, and written beside the other refused drafts."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._styles = {
            template.id: template.style
            for templates in run.phrasings.all.values()
            for template in templates
        }
        self._documents: dict[str, tuple[str, bool]] = {}
        self._gone: set[str] = set()
        self.rejects: list[bytes] = []

    def see(self, example: InstructionExample, *, stays: bool) -> None:
        """Take note of an example's document: whether any of its examples stays."""
        source = example.provenance
        assert source is not None
        document = hashing.digest(source.corpus, source.uri, source.span, source.sha256)
        origin = self._source_of(example)
        _, before = self._documents.get(f"{origin}/{document}", (origin, False))
        self._documents[f"{origin}/{document}"] = (origin, before or stays)

    def refuse(self, example: InstructionExample, verdict: CurationVerdict) -> None:
        """Count an example back, as phrase.py counted it."""
        tally, task = self._run.tally, example.task
        self._gone.add(example.id)
        tally.count("examples", task, example.split, example.holdout, by=-1)
        encoder = few_shot_text(example.demonstrations, example.instruction, example.input)
        tally.count("length", task, "encoder", len(encoder), by=-1)
        tally.count("length", task, "target", len(example.target), by=-1)
        tally.count("target_source", example.target_source, by=-1)
        letter = next(filter(str.isalpha, example.target), "")
        tally.count("script", script_of(letter) if letter else "", by=-1)
        tally.count("style", self._styles[example.template], by=-1)
        tally.count("demonstrated", by=-int(bool(example.demonstrations)))
        if not example.id.endswith("-0"):
            return
        tally.count("accepted", task, by=-1)
        tally.count("rejected", task, verdict.reason)
        order = hashing.digest(draft_of(example))
        record = {
            **example.to_record(),
            "nll": round(verdict.measures.nll, 4),
            "ifd": round(verdict.measures.ifd, 4),
        }
        for _, _, (_, line) in write_reject(task, verdict.reason, order, lambda: record, self._run):
            self.rejects.append(line.encode("utf-8", "surrogatepass"))

    def finish(self) -> None:
        """Documents without an example left, directions of translations, samples."""
        tally = self._run.tally
        for source, stays in self._documents.values():
            if not stays:
                tally.count("document_fate", source, "used", by=-1)
                tally.count("document_fate", source, "all_drafts_refused")
        drafts = {name.rpartition("-")[0] for name in self._gone}
        for (draft, *direction), count in list(tally.of("direction_of")):
            if draft in drafts:
                tally.count("direction", *direction, by=-count)
        for key, samples in tally.first.items():
            if key[0] == "sample":
                samples[:] = [item for item in samples if item[1].id not in self._gone]
        for counted in [key for key, count in tally.counts.items() if not count]:
            if counted[0] in _COUNTED_BACK:
                del tally.counts[counted]

    def _source_of(self, example: InstructionExample) -> str:
        """The corpus; what a synthesiser made keeps the name of the one that it was made of."""
        recipe = self._run.recipe
        assert example.provenance is not None
        named = example.provenance.corpus
        if named in recipe.sources and example.task in recipe.tasks_of(named):
            return named
        return next(name for name in recipe.sources if kind_of(name, recipe) == "synthesised")
