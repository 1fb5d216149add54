"""Evaluate a checkpoint on instructions it never saw, per task and hold-out, against floors.

    python -m instructrec_jax.evaluate --checkpoint=runs/demo --dataset=datasets/demo \
        --output=runs/demo/evaluation --sensitivity
    python -m instructrec_jax.evaluate --checkpoint=flan-t5-base --benchmark=mmlu \
        --dataset=downloads/mmlu --output=runs/flan/mmlu
    python -m instructrec_jax.evaluate --compare=runs/a/evaluation,runs/b/evaluation \
        --output=runs/a_b

Writes metrics.json, predictions.jsonl and report.html (for a browser, needs no network) into the
output folder; with --sensitivity the answers under changed instructions too (sensitivity.jsonl);
with --compare comparison.json and comparison.html. docs/evaluation.md explains every figure.
Imports neither TensorFlow nor the optimizer, but for a dataset that is a recipe (NAME.tfds.json),
which TensorFlow Datasets reads.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
from absl import flags
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from instructrec_jax.command_line import run, say
from instructrec_jax.decoding.choosing import CHOOSE_BY, ChooseBy
from instructrec_jax.decoding.loading import decode_mesh
from instructrec_jax.errors import ConfigError
from instructrec_jax.evaluation.benchmarks import BENCHMARKS
from instructrec_jax.evaluation.comparison import compare_evaluations
from instructrec_jax.evaluation.floors import floors_of
from instructrec_jax.evaluation.metrics import METRIC_BY_NAME
from instructrec_jax.evaluation.pipeline import evaluate_checkpoint, make_folder
from instructrec_jax.evaluation.protocol import FEW
from instructrec_jax.evaluation.report import (
    evaluation_notes,
    few_text,
    interval_text,
    loss_text,
    percent,
    range_text,
)
from instructrec_jax.evaluation.rewording import VARIANTS
from instructrec_jax.evaluation.sensitivity import verdict_text
from instructrec_jax.training import processes

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run, step or params-only folder.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset folder, or file of examples.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the figures, answers and report.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Split to evaluate; left out: test, or what training left out of a file."
)
_MAX_EXAMPLES_PER_TASK = flags.DEFINE_integer(
    "max_examples_per_task", 0, "At most so many for each task and hold-out; 0 = all.", 0
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Examples decoded at once.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 0, "Longest answer in tokens; 0 = the longest target of training.", 0
)
_BENCHMARK = flags.DEFINE_string(
    "benchmark", None, f"What --dataset holds, if no instructions: {', '.join(BENCHMARKS)}."
)
_SHOTS = flags.DEFINE_integer(
    "shots",
    None,
    "Solved questions shown first: their own, or of the train split; by default those of the "
    "records, or the benchmark's number.",
    0,
)
_CHOOSE_BY = flags.DEFINE_enum(
    "choose_by",
    None,
    CHOOSE_BY,
    "Answer questions that have options by the most probable of them: by the sum or mean of the "
    "tokens' log-probabilities, or by the sum less that without the question.",
)
_UNTRAINED_FLOOR = flags.DEFINE_boolean(
    "untrained_floor", False, "Decode with initial parameters too, as one more floor."
)
_SENSITIVITY = flags.DEFINE_boolean(
    "sensitivity", False, "Answer under changed instructions too: does the model read them?"
)
_SENSITIVITY_EXAMPLES = flags.DEFINE_integer(
    "sensitivity_examples", 100, "Examples of each task for --sensitivity.", 1
)
_PARAMETER_DTYPE = flags.DEFINE_enum(
    "parameter_dtype", "float32", ["float32", "bfloat16", "int8"], "In which the weights are kept."
)
_MESH = flags.DEFINE_string(
    "mesh", None, "Devices to split batch and weights over: data=4,tensor=2; one by default."
)
_COMPARE = flags.DEFINE_list(
    "compare", None, "Output folders of evaluations to compare: each further one with the first."
)

flags.adopt_module_key_flags(processes)  # so that --help lists --distributed

# Flags that a comparison has no use for.
_OF_EVALUATING = (_CHECKPOINT, _DATASET, _SPLIT, _BENCHMARK, _SHOTS, _MESH)

# Width of the table where there is no terminal to ask.
PLAIN_WIDTH = 132


def main() -> None:
    """Read the command line, evaluate or compare, print the table."""
    if _COMPARE.value is not None:
        _compare()
        return
    checkpoint, dataset, output = map(_given_path, (_CHECKPOINT, _DATASET, _OUTPUT))
    if processes.DISTRIBUTED.value:
        if _MESH.value is None:
            raise ConfigError("--distributed splits one model over all processes: say how, --mesh")
        processes.join_processes()
    mesh = decode_mesh(_MESH.value)
    # Of several processes that are one each has all answers, and the first writes and speaks.
    first = jax.process_index() == 0
    with ExitStack() as held:
        output_here = output if first else Path(held.enter_context(tempfile.TemporaryDirectory()))
        if processes.DISTRIBUTED.value:
            # One that failed alone would leave the others waiting for it.
            processes.check_all_processes(partial(make_folder, output_here))
        if mesh is not None:
            held.enter_context(jax.set_mesh(mesh))
        progress = held.enter_context(progress_report()) if first else None
        metrics = evaluate_checkpoint(
            checkpoint=checkpoint,
            dataset=dataset,
            output=output_here,
            split=_SPLIT.value,
            max_examples_per_task=_MAX_EXAMPLES_PER_TASK.value,
            batch_size=_BATCH_SIZE.value,
            max_new_tokens=_MAX_NEW_TOKENS.value,
            benchmark=_BENCHMARK.value or "",
            shots=_SHOTS.value,
            choose_by=cast(ChooseBy | None, _CHOOSE_BY.value),
            untrained_floor=_UNTRAINED_FLOOR.value,
            sensitivity_examples=_SENSITIVITY_EXAMPLES.value if _SENSITIVITY.value else 0,
            mesh=mesh,
            dtype=_PARAMETER_DTYPE.value,
            say=say if first else lambda text: None,
            progress=progress,
        )
    if first:
        _tell(metrics, output)


def _tell(metrics: Mapping[str, Any], output: Path) -> None:
    _print(results_table(metrics))
    if metrics["sensitivity"]:
        _print(sensitivity_table(metrics["sensitivity"]))
    summary = metrics["summary"]
    say(
        f"{summary['tasks_beating_floors']} of {summary['tasks']} tasks are above every floor on "
        f"all their hold-outs{few_text(summary['tasks_beating_floors_few'])}"
    )
    for note in evaluation_notes(metrics):
        say(note)
    say(f"report: {output / 'report.html'}")


def _compare() -> None:
    for given in _OF_EVALUATING:
        if given.value is not None:
            raise ConfigError(f"--{given.name} has no meaning with --compare")
    output = _given_path(_OUTPUT)
    comparison = compare_evaluations([Path(folder) for folder in _COMPARE.value or ()], output)
    _print(comparison_table(comparison))
    say(f"examples in common: {comparison['examples_in_common']:,}")
    say(f"page: {output / 'comparison.html'}")


def _print(table: Table) -> None:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table)


def _given_path(flag: flags.FlagHolder) -> Path:
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing")
    return Path(flag.value)


@contextmanager
def progress_report() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar a stage on a terminal, some plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress()
        return
    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield update


class PlainProgress:
    """Says a line whenever another tenth of a stage is done."""

    def __init__(self) -> None:
        """Nothing is done yet."""
        self._told: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note of the number of examples done."""
        tenth = 10 * done // total
        if tenth > self._told.get(stage, 0):
            self._told[stage] = tenth
            say(f"{stage}: {done:,} of {total:,}")


def results_table(metrics: Mapping[str, Any]) -> Table:
    """The table for the terminal: a row for each task and hold-out, then the means.

    "above" means above every floor by the primary metric, beyond what the choice of examples
    explains.
    """
    primary = METRIC_BY_NAME[metrics["primary_metric"]]
    floors = floors_of(metrics)
    both = "" if primary.name == "exact_match" else " and exact match"
    table = Table(
        title=f"{primary.title}{both} from 0 to 100, beside floors that need no model",
        caption=f"over best floor: 95 % interval of the difference in {primary.title}; "
        f"n: examples; few: below {FEW}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("task", overflow="fold")
    table.add_column("hold-out", no_wrap=True)
    for heading in ("loss\n/token", "exact\nmatch", primary.title, "95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for floor in floors:
        table.add_column(f"floor:\n{floor.short_title}", justify="right", no_wrap=True)
    table.add_column("over best\nfloor, 95%", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for task, groups in metrics["tasks"].items():
        for holdout, group in groups.items():
            style = "red" if not group["beats_floors"] else "green"
            interval = interval_text(group["difference_to_best_floor"])
            verdict = f"[{style}]{group['verdict']}[/]"
            table.add_row(
                *_cells(task, holdout, group, primary.name),
                interval,
                f"{group['examples']:,}",
                verdict,
            )
    table.add_section()
    for holdout, macro in metrics["macro"].items():
        counted = f"{macro['tasks_beating_floors']} of {macro['tasks']}"
        counted += f" ({macro['tasks_beating_floors_few']} few)"
        cells = _cells("mean over tasks", holdout, macro, primary.name)
        table.add_row(*cells, "", f"{macro['examples']:,}", counted, style="bold")
    return table


def _cells(task: str, holdout: str, group: Mapping[str, Any], primary: str) -> list[str]:
    model = group["model"]
    return [
        task.replace("[", r"\["),
        holdout.replace("[", r"\["),
        loss_text(model["loss_per_token"]),
        percent(model["exact_match"]),
        percent(model[primary]),
        range_text(group["intervals"][primary]),
        *(percent(figures[primary]) for figures in group["floors"].values()),
    ]


def sensitivity_table(sensitivity: Mapping[str, Any]) -> Table:
    """A row for each changed instruction, over all tasks."""
    title = METRIC_BY_NAME[sensitivity["primary_metric"]].title
    table = Table(
        title=f"{title} under a changed instruction",
        caption=verdict_text(sensitivity),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("instruction")
    for heading in ("true", "changed", "drop", "95 %", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for variant in VARIANTS:
        if variant.name in sensitivity["macro"]:
            row = sensitivity["macro"][variant.name]
            figures = (row["true"], row["changed"], row["drop"]["value"])
            table.add_row(
                variant.title,
                *map(percent, figures),
                interval_text(row["drop"]),
                f"{row['examples']:,}",
                row["verdict"],
            )
    return table


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """A row for each pair and hold-out: the means over tasks."""
    title = METRIC_BY_NAME[comparison["primary_metric"]].title
    table = Table(title=f"{title}, mean over tasks", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("evaluation", overflow="fold")
    table.add_column("against", overflow="fold")
    table.add_column("hold-out", no_wrap=True)
    for heading in ("figure", "difference", "95 %", "p", "tasks better", "worse"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for pair in comparison["pairs"]:
        for holdout, row in pair["macro"].items():
            verdicts = [each["verdict"] for each in pair["tasks"] if each["holdout"] == holdout]
            table.add_row(
                pair["second"],
                pair["first"],
                holdout,
                percent(row["second"]),
                f"{100 * row['difference']['value']:+.1f}",
                interval_text(row["difference"]),
                f"{row['p_value']:.4f}",
                str(sum(each.startswith("better") for each in verdicts)),
                str(sum(each.startswith("worse") for each in verdicts)),
                row["verdict"],
            )
    return table


if __name__ == "__main__":
    run(main, needs_config=False)
