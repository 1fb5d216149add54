"""The report: one HTML page that needs nothing else, made from a run and its evaluation.

The same input gives the same page, byte for byte. What the page says is computed here; how it
looks stands in report.html.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from instructrec_jax.evaluation.breakdown import ERROR_KINDS, LENGTHS
from instructrec_jax.evaluation.files import write_whole
from instructrec_jax.evaluation.floors import EVALUATED_EXAMPLES, Floor, floors_of
from instructrec_jax.evaluation.metrics import METRIC_BY_NAME, METRICS, PRIMARY_METRIC
from instructrec_jax.evaluation.protocol import FEW, NO_HOLDOUT, holdout_order
from instructrec_jax.evaluation.rewording import VARIANTS
from instructrec_jax.evaluation.run_log import RunLog, read_run
from instructrec_jax.evaluation.run_report import (
    event_rows,
    run_charts,
    setting_rows,
    task_rows,
    time_parts,
    training_cards,
)
from instructrec_jax.evaluation.samples import choose_samples, from_training, learning_journeys
from instructrec_jax.evaluation.sensitivity import LEAST_DROP, verdict_text
from instructrec_jax.evaluation.wording import (
    duration,
    few_text,
    interval_text,
    loss_text,
    percent,
    range_text,
)

TEMPLATE = "report.html"

# Title and explanation of each hold-out.
HOLDOUT_TEXTS = {
    "document": (
        "Unseen documents",
        "Known tasks and phrasings, on documents kept out of training.",
    ),
    "phrasing": ("Unseen phrasings", "Known tasks, asked in words that training never saw."),
    "task": ("Unseen tasks", "Tasks that training never saw at all."),
    "composition": ("Unseen compositions", "Known tasks, chained in a way training never saw."),
    NO_HOLDOUT: ("All examples", "The data names no hold-out."),
}

# Colour of each kind of error that is not told apart by the palette's order.
_ERROR_COLOURS = {"right": "good", "near": "part-3", "partly": "floor-0", "far": "bad"}


def write_report(
    *,
    run_folder: Path | None,
    metrics: Mapping[str, Any] | None,
    predictions: Sequence[Mapping[str, Any]],
    output: Path,
) -> None:
    """Write the page to the file `output`, whole or not at all.

    `run_folder` gives the training part, `metrics` (the contents of metrics.json) the figures,
    `predictions` (records of predictions.jsonl) the samples; each may be missing. Without
    predictions the run's own samples are shown.
    """
    run = read_run(run_folder) if run_folder is not None else None
    page = render(run=run, metrics=metrics, predictions=predictions)
    write_whole(output, page)


def render(
    *,
    run: RunLog | None,
    metrics: Mapping[str, Any] | None,
    predictions: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "loss": loss_text,
        "count": lambda value: f"{value:,}",
        "duration": duration,
        "breakable": lambda name: Markup("<wbr>").join(re.split("(?<=[_/.])", name)),
        "interval": interval_text,
        "few": few_text,
        "range": range_text,
        "signed": lambda value: f"{100 * value:+.1f}",
    }
    records = run.samples if run is not None else []
    shown = predictions or from_training(records)
    panels = _panels(metrics) if metrics is not None else []
    return environment.get_template(TEMPLATE).render(
        run=run,
        metrics=metrics,
        metric_table=METRICS,
        floors=floors_of(metrics) if metrics is not None else (),
        primary=METRIC_BY_NAME[_primary(metrics)],
        variants=VARIANTS,
        least_drop=LEAST_DROP,
        verdict_text=verdict_text,
        length_kinds=LENGTHS,
        **_errors(metrics),
        few_examples=FEW,
        headline=_headline(panels),
        notes=evaluation_notes(metrics) if metrics is not None else [],
        cards=_evaluation_cards(panels) + training_cards(run),
        panels=panels,
        charts=run_charts(run),
        packing=run.packing if run is not None else {},
        time_parts=time_parts(run),
        task_rows=task_rows(run),
        events=event_rows(run),
        event_count=len(run.events) if run is not None else 0,
        journeys=learning_journeys(records),
        samples=choose_samples(shown),
        sample_total=len(shown),
        tasks=sorted({each["task"] for each in shown}),
        holdouts=sorted({each["holdout"] for each in shown}, key=holdout_order),
        settings=setting_rows(run),
    )


def _primary(metrics: Mapping[str, Any] | None) -> str:
    return PRIMARY_METRIC if metrics is None else metrics["primary_metric"]


def _errors(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the section on errors needs besides: kinds, their numbers and colours."""
    tasks = metrics["breakdown"]["errors"].values() if metrics is not None else ()
    total = {kind.name: sum(task.get(kind.name, 0) for task in tasks) for kind in ERROR_KINDS}
    others = [kind.name for kind in ERROR_KINDS if kind.name not in _ERROR_COLOURS]
    palette = ("part-5", "part-4", "part-2", "floor-1", "part-6", "first", "part-7")
    colours = {name: palette[place % len(palette)] for place, name in enumerate(others)}
    return {
        "error_kinds": ERROR_KINDS,
        "error_total": total,
        "error_colours": {**colours, **_ERROR_COLOURS},
    }


# --- figures against the floors -----------------------------------------------------------------


def _panels(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One panel a hold-out, its tasks from the widest margin over the floors to the narrowest."""
    panels = []
    primary = _primary(metrics)
    floors = floors_of(metrics)
    for holdout, macro in metrics["macro"].items():
        rows = [
            _row(task, groups[holdout], metrics["most_frequent_targets"][task], floors)
            for task, groups in metrics["tasks"].items()
            if holdout in groups
        ]
        rows.sort(key=lambda row: (-row["margin"], row["task"]))
        title, text = HOLDOUT_TEXTS.get(holdout, (f"Hold-out: {holdout}", ""))
        best = max(macro["floors"].values(), key=lambda floor: floor[primary])
        panels.append(
            {
                "holdout": holdout,
                "title": title,
                "text": text,
                "macro": macro,
                "rows": rows,
                "losing": [row for row in rows if not row["group"]["beats_floors"]],
                "best_floor": best[primary],
                "primary": METRIC_BY_NAME[primary],
            }
        )
    return panels


def _row(
    task: str, group: Mapping[str, Any], frequent: Mapping[str, Any], floors: Sequence[Floor]
) -> dict[str, Any]:
    primary = group["primary_metric"]
    model = group["model"][primary]
    best = next(floor for floor in floors if floor.name == group["best_floor"])
    best_figure = group["floors"][best.name][primary]
    return {
        "task": task,
        "group": group,
        "best_floor": best,
        "best_figure": best_figure,
        "margin": model - best_figure,
        "frequent": frequent,
        "counted_on_answers": frequent["counted_on"] == EVALUATED_EXAMPLES,
    }


def _headline(panels: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The first hold-out's verdict, for the sentence on top."""
    if not panels:
        return None
    first = panels[0]
    return {
        "where": first["title"][0].lower() + first["title"][1:],
        "beating": first["macro"]["tasks_beating_floors"],
        "few": first["macro"]["tasks_beating_floors_few"],
        "tasks": first["macro"]["tasks"],
    }


def evaluation_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures has to know besides."""
    decoding = metrics["decoding"]
    notes = [metrics["dataset"]["note"]]
    if decoding["inputs_cut"]:
        notes.append(
            f"inputs longer than {decoding['encoder_length']} tokens, which were cut: "
            f"{decoding['inputs_cut']:,}"
        )
    if decoding.get("shots_of_benchmark") and decoding["examples_without_shots"]:
        notes.append(
            f"questions asked zero-shot, for want of solved ones in the files, where the "
            f"benchmark shows {decoding['shots_of_benchmark']}: "
            f"{decoding['examples_without_shots']:,}"
        )
    if decoding.get("demonstrations_left_out"):
        notes.append(
            f"solved questions that {decoding['encoder_length']} tokens had no room for: "
            f"{decoding['demonstrations_left_out']:,}"
        )
    code = metrics.get("code") or {}
    if failing := code.get("not_judged"):
        notes.append(
            f"code that cannot be judged here, as its own solution does not pass under guard: "
            f"{len(failing):,} of {len(failing) + code['examples']:,}; its ids are in metrics.json"
        )
    if decoding["targets_longer_than_limit"]:
        notes.append(
            f"targets longer than {decoding['max_new_tokens']} tokens, which no answer can "
            f"match: {decoding['targets_longer_than_limit']:,}"
        )
    if decoding["outputs_stopped_by_limit"]:
        notes.append(
            f"answers that had not ended after {decoding['max_new_tokens']} tokens: "
            f"{decoding['outputs_stopped_by_limit']:,}"
        )
    return [note[0].upper() + note[1:] + "." for note in notes if note]


def _evaluation_cards(panels: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    cards = []
    for panel in panels[:3]:
        macro = panel["macro"]
        cards.append(
            {
                "label": panel["title"],
                "value": percent(macro["model"][panel["primary"].name]),
                "unit": panel["primary"].title,
                "note": f"best floor {percent(panel['best_floor'])} · above the floors on "
                f"{macro['tasks_beating_floors']} of {macro['tasks']} tasks"
                f"{few_text(macro['tasks_beating_floors_few'])}",
            }
        )
    return cards
