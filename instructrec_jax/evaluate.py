"""Evaluate a checkpoint on instructions it never saw, per task and hold-out, against floors.

    python -m instructrec_jax.evaluate --checkpoint=runs/demo --dataset=datasets/demo \
        --output=runs/demo/evaluation

Writes metrics.json, predictions.jsonl and report.html (for a browser, needs no network) into the
output folder. Imports neither TensorFlow nor the optimizer, but for a dataset that is a recipe
(NAME.tfds.json), which TensorFlow Datasets reads.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from instructrec_jax.errors import ConfigError
from instructrec_jax.evaluation.floors import FLOORS
from instructrec_jax.evaluation.pipeline import evaluate_checkpoint
from instructrec_jax.evaluation.protocol import FEW
from instructrec_jax.evaluation.report import (
    evaluation_notes,
    few_text,
    interval_text,
    loss_text,
    percent,
)

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

# Width of the table where there is no terminal to ask.
PLAIN_WIDTH = 132


def main() -> None:
    """Read the command line, evaluate, print the table."""
    checkpoint, dataset, output = map(_given_path, (_CHECKPOINT, _DATASET, _OUTPUT))
    with progress_report() as progress:
        metrics = evaluate_checkpoint(
            checkpoint=checkpoint,
            dataset=dataset,
            output=output,
            split=_SPLIT.value,
            max_examples_per_task=_MAX_EXAMPLES_PER_TASK.value,
            batch_size=_BATCH_SIZE.value,
            max_new_tokens=_MAX_NEW_TOKENS.value,
            say=say,
            progress=progress,
        )
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(results_table(metrics))
    summary = metrics["summary"]
    say(
        f"{summary['tasks_beating_floors']} of {summary['tasks']} tasks are above every floor on "
        f"all their hold-outs{few_text(summary['tasks_beating_floors_few'])}"
    )
    for note in evaluation_notes(metrics):
        say(note)
    say(f"report: {output / 'report.html'}")


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

    "above" means above every floor by chrF, beyond what the choice of examples explains.
    """
    table = Table(
        title="chrF and exact match from 0 to 100, beside floors that need no model",
        caption="over best floor: 95 % interval of the difference in chrF; n: examples; "
        f"few: below {FEW}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("task", overflow="fold")
    table.add_column("hold-out", no_wrap=True)
    for heading in ("loss\n/token", "exact\nmatch", "chrF"):
        table.add_column(heading, justify="right", no_wrap=True)
    for floor in FLOORS:
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
                *_cells(task, holdout, group), interval, f"{group['examples']:,}", verdict
            )
    table.add_section()
    for holdout, macro in metrics["macro"].items():
        counted = f"{macro['tasks_beating_floors']} of {macro['tasks']}"
        counted += f" ({macro['tasks_beating_floors_few']} few)"
        cells = _cells("mean over tasks", holdout, macro)
        table.add_row(*cells, "", f"{macro['examples']:,}", counted, style="bold")
    return table


def _cells(task: str, holdout: str, group: Mapping[str, Any]) -> list[str]:
    model = group["model"]
    return [
        task.replace("[", r"\["),
        holdout.replace("[", r"\["),
        loss_text(model["loss_per_token"]),
        percent(model["exact_match"]),
        percent(model["chrf"]),
        *(percent(group["floors"][floor.name]["chrf"]) for floor in FLOORS),
    ]


if __name__ == "__main__":
    run(main, needs_config=False)
