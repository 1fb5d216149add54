"""The stages of a build as an Apache Beam pipeline, for more data than one machine takes.

Needs the extra `beam`. The functions, and so the dataset's bytes, are those of `local_runner`; Beam
does the grouping. Workers need this package and the raw corpora under the same paths, and
`--output` on a file system that they and the starting machine see.
"""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from instructrec_jax.instructions.construct import NumberedUnit, construct, numbered_units
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.flow import FILES, Group, Run, Stage
from instructrec_jax.instructions.pipeline import CONSTRUCTED, STAGES
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import documents_of
from instructrec_jax.instructions.tally import Tally

_TALLY = "tally"


def run_on_beam(recipe: Recipe, *, options: Sequence[str], folder: Path, files: Path) -> Tally:
    """Run all stages; what they counted together. Files of the dataset are written to `files`.

    Args:
        recipe: of the dataset.
        options: Beam's own, such as "--runner=FlinkRunner"; none = its local runner.
        folder: for the file of counts.
        files: where the finished files of the dataset go.
    """
    counted = folder / "tally"
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _pipeline(pipeline, recipe, files=str(files), counted=str(counted))
    total: Tally = pickle.loads(counted.read_bytes())
    return total


def _pipeline(pipeline: beam.Pipeline, recipe: Recipe, *, files: str, counted: str) -> None:
    made = (
        pipeline
        | "corpora" >> beam.Create(list(recipe.used_sources))
        | "units" >> beam.FlatMap(_planned_units, recipe)
        | "spread" >> beam.Reshuffle()
        | "construct" >> beam.ParDo(_Construct(recipe)).with_outputs(_TALLY, *CONSTRUCTED)
    )
    outputs: list[tuple[tuple[str, ...], Any]] = [(CONSTRUCTED, made)]
    tallies = [made[_TALLY]]
    for stage in STAGES:
        streams = [given[name] for name in stage.reads for gives, given in outputs if name in gives]
        sides = []
        if stage.side is not None:
            side = (
                tuple(tallies)
                | f"{stage.name}: counts" >> beam.Flatten()
                | f"{stage.name}: add up" >> beam.CombineGlobally(_added)
                | f"{stage.name}: whole" >> beam.Map(_side, stage, recipe)
            )
            sides = [beam.pvalue.AsSingleton(side)]
        given = (
            tuple(streams)
            | f"{stage.name}: records" >> beam.Flatten()
            | f"{stage.name}: group" >> beam.GroupByKey()
            | stage.name
            >> beam.ParDo(_Apply(stage, recipe), *sides).with_outputs(_TALLY, *stage.gives)
        )
        outputs.append((stage.gives, given))
        tallies.append(given[_TALLY])
    written = tuple(given[FILES] for gives, given in outputs if FILES in gives)
    written | "files" >> beam.Flatten() | "write" >> beam.Map(_write, folder=files)
    (
        tuple(tallies)
        | "counts" >> beam.Flatten()
        | "add up" >> beam.CombineGlobally(_added)
        | "write counts" >> beam.Map(_write_counts, counted)
    )


def _planned_units(source: str, recipe: Recipe) -> Iterator[NumberedUnit]:
    """The units of a corpus; where the recipe bounds the documents, they are counted first."""
    left = recipe.max_documents_per_source
    if not left:
        yield from numbered_units(source, recipe)
        return
    for unit in numbered_units(source, recipe):
        found = documents_of(source, unit.unit, recipe)
        count = sum(isinstance(each, Document) for each in found)
        yield unit._replace(limit=left)
        left -= min(count, left)
        if not left:
            break


class _Function(beam.DoFn):
    """What both kinds of step share: the run of a process, and counts that leave with a bundle."""

    def __init__(self, recipe: Recipe) -> None:
        self.run = Run(recipe)

    def start_bundle(self) -> None:
        self.run.tally = Tally()

    def finish_bundle(self) -> Iterator[Any]:
        window = GlobalWindow()
        value = WindowedValue(self.run.tally, window.max_timestamp(), [window])
        yield beam.pvalue.TaggedOutput(_TALLY, value)

    def teardown(self) -> None:
        self.run.close()


class _Construct(_Function):
    """Units to the first records."""

    def process(self, unit: NumberedUnit) -> Iterator[Any]:
        for stream, key, value in construct(unit, self.run):
            yield beam.pvalue.TaggedOutput(stream, (key, (stream, value)))


class _Apply(_Function):
    """Groups to the records that a stage gives."""

    def __init__(self, stage: Stage, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._stage = stage

    def process(self, element: tuple[str, Iterable[tuple[str, Any]]], side: Any = None) -> Any:
        key, values = element
        group: Group = {name: [] for name in self._stage.reads}
        for stream, value in values:
            group[stream].append(value)
        self.run.side = side
        for stream, other, value in self._stage.apply(key, group, self.run):
            record = (other, value) if stream == FILES else (other, (stream, value))
            yield beam.pvalue.TaggedOutput(stream, record)


def _added(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _side(tally: Tally, stage: Stage, recipe: Recipe) -> Any:
    assert stage.side is not None
    return stage.side(recipe, tally)


def _write(file: tuple[str, bytes], folder: str) -> None:
    name, contents = file
    path = FileSystems.join(folder, name)
    with FileSystems.create(path, compression_type="uncompressed") as opened:
        opened.write(contents)


def _write_counts(tally: Tally, path: str) -> None:
    with FileSystems.create(path, compression_type="uncompressed") as opened:
        opened.write(pickle.dumps(tally))
