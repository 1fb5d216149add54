"""The stages of a build on one machine: tasks in several processes, records on disk between them.

No process holds more than a slice of the records. Every finished task leaves one file; a build that
was killed and is run again takes up the files that are there.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from instructrec_jax.instructions import spool
from instructrec_jax.instructions.construct import NumberedUnit, construct, numbered_units
from instructrec_jax.instructions.flow import Emission, Run
from instructrec_jax.instructions.pipeline import CONSTRUCTED, STAGES
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import title_of
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.workers import Workers, stopped_in_a_line

# Bytes of records in memory, pass by pass, that a task takes of groups; the fewest of a stage.
_BYTES_OF_TASK = 64 << 20
_FEWEST_TASKS = 8
# Units of a task: few at first, so that a small corpus is spread over the processes, then more, so
# that a large one does not end in too many files.
_UNITS_OF_TASK = (8, 256)
_TASKS_OF_A_SIZE = 64

# Opens a progress bar of a title and a number of steps; gives the call for some steps.
Bar = Callable[[str, Callable[[], int]], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class ConstructTask:
    """Construct some units of a corpus, up to `limit` documents (-1 = all)."""

    units: tuple[NumberedUnit, ...]
    path: Path
    files: Path
    slices: int
    limit: int = -1

    def perform(self, run: Run) -> spool.Finished:
        """Write the records of the units."""
        known = spool.finished(self.path)
        if known is not None:
            return known
        run.tally = Tally()
        return spool.write(
            self.path, self._emissions(run), slices=self.slices, files=self.files, tally=run.tally
        )

    def _emissions(self, run: Run) -> Iterator[Emission]:
        left = self.limit
        for unit in self.units:
            before = run.tally.counts["documents", unit.source]
            yield from construct(unit._replace(limit=left), run)
            if left >= 0:
                left -= run.tally.counts["documents", unit.source] - before
            if left == 0:
                break


@dataclass(frozen=True)
class GroupTask:
    """Apply a stage to the groups of a part of the hashes of keys."""

    stage: int
    part: spool.Part
    inputs: tuple[Path, ...] = field(repr=False)
    side: Any = field(repr=False)
    path: Path
    files: Path
    slices: int

    def perform(self, run: Run) -> spool.Finished:
        """Write the records that the stage gives."""
        known = spool.finished(self.path)
        if known is not None:
            return known
        stage = STAGES[self.stage]
        run.tally, run.side = Tally(), self.side
        found = spool.groups(self.inputs, streams=stage.reads, part=self.part)
        emissions = (e for key, group in found for e in stage.apply(key, group, run))
        return spool.write(
            self.path, emissions, slices=self.slices, files=self.files, tally=run.tally
        )


def run_locally(
    recipe: Recipe,
    *,
    processes: int,
    folder: Path,
    files: Path,
    bar: Bar,
    said: Callable[[str, Tally], None],
) -> Tally:
    """Work through all stages; what they counted together.

    Args:
        recipe: of the dataset.
        processes: 0 = one a core, 1 = no other process.
        folder: where records wait. What is there already is taken for this recipe's.
        files: where the finished files of the dataset go.
        bar: opens a progress bar.
        said: told of each corpus and stage when it is done, with its own counts.

    Raises:
        StoppedError: a process was killed, or a file cannot be read or written any more.
    """
    with stopped_in_a_line(folder):
        return _run(recipe, processes, folder, files, bar, said)


def _run(
    recipe: Recipe,
    processes: int,
    folder: Path,
    files: Path,
    bar: Bar,
    said: Callable[[str, Tally], None],
) -> Tally:
    done: list[spool.Finished] = []
    total = Tally()
    with Workers(recipe, processes=processes) as workers:
        for source in recipe.used_sources:
            part = Tally()
            for finished in _construct(source, recipe, workers, folder, files, bar, done):
                part.add(finished.tally)
                done.append(replace(finished, tally=Tally()))
            total.add(part)
            said(source, part)
        for number, stage in enumerate(STAGES):
            side = stage.side(recipe, total) if stage.side is not None else None
            tasks = _group_tasks(number, done, side, folder, files)
            with bar(stage.name.replace("_", " "), tasks.__len__) as advance:
                for _, finished in workers.perform(tasks):
                    total.add(finished.tally)
                    done.append(replace(finished, tally=Tally()))
                    advance(1)
    return total


def _units(source: str, recipe: Recipe) -> int:
    return sum(1 for _ in numbered_units(source, recipe))


def _construct(
    source: str,
    recipe: Recipe,
    workers: Workers,
    folder: Path,
    files: Path,
    bar: Bar,
    done: list[spool.Finished],
) -> Iterator[spool.Finished]:
    """The finished tasks of a corpus, up to the recipe's bound on documents; `done`: all before."""
    bound, count = recipe.max_documents_per_source, 0
    with bar(title_of(source, recipe), lambda: _units(source, recipe)) as advance:
        for task, finished in workers.perform(
            _construct_tasks(source, recipe, folder, files, done)
        ):
            documents = finished.tally.counts["documents", source]
            if bound and count + documents >= bound:
                path = task.path.with_name(f"{task.path.name}-cut")
                last = replace(task, path=path, limit=bound - count)
                for _, finished in workers.perform([last]):
                    yield finished
                return
            count += documents
            yield finished
            advance(len(task.units))


def _construct_tasks(
    source: str, recipe: Recipe, folder: Path, files: Path, done: list[spool.Finished]
) -> Iterator[ConstructTask]:
    units = numbered_units(source, recipe)
    number = 0
    smallest, largest = _UNITS_OF_TASK
    while part := tuple(
        islice(units, min(smallest << min(number // _TASKS_OF_A_SIZE, 20), largest))
    ):
        name = f"construct-{recipe.sources.index(source):03d}-{number:06d}"
        # Nobody knows what is to come: as much again as has come.
        slices = spool.slices_for(2 * max(_sizes(done, CONSTRUCTED).values(), default=0))
        yield ConstructTask(part, folder / name, files, slices)
        number += 1


def _group_tasks(
    number: int, done: list[spool.Finished], side: Any, folder: Path, files: Path
) -> list[GroupTask]:
    stage = STAGES[number]
    size = sum(_sizes(done, stage.reads).values())
    if not size:
        return []
    inputs = tuple(each.path for each in done if any(each.sizes.get(name) for name in stage.reads))
    parts = spool.parts_for(size, _BYTES_OF_TASK, fewest=_FEWEST_TASKS)
    return [
        GroupTask(
            stage=number,
            part=part,
            inputs=inputs,
            side=side,
            path=folder / f"{stage.name}-{part.number:06d}-of-{part.count:06d}",
            files=files,
            slices=spool.slices_for(size),
        )
        for part in spool.Part(0, 1).split(parts)
    ]


def _sizes(done: list[spool.Finished], streams: tuple[str, ...]) -> dict[str, int]:
    """Bytes of each stream's records in memory."""
    return {name: sum(each.sizes.get(name, 0) for each in done) for name in streams}
