"""The report: one HTML page that needs nothing else, made from a run and its evaluation.

The same input gives the same page, byte for byte. What the page says is computed here; how it
looks stands in report.html.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from instructrec_jax.evaluation.breakdown import ERROR_KINDS, LENGTHS
from instructrec_jax.evaluation.charts import LineChart, Series, line_chart, number_label
from instructrec_jax.evaluation.files import write_whole
from instructrec_jax.evaluation.floors import EVALUATED_EXAMPLES, Floor, floors_of
from instructrec_jax.evaluation.metrics import METRIC_BY_NAME, METRICS, PRIMARY_METRIC
from instructrec_jax.evaluation.protocol import FEW, NO_HOLDOUT, holdout_order
from instructrec_jax.evaluation.rewording import VARIANTS
from instructrec_jax.evaluation.run_log import RunLog, read_run, series
from instructrec_jax.evaluation.samples import choose_samples, from_training, learning_journeys

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

# Parts of the wall time: key in metrics.jsonl, title. Unknown keys show under their own name.
TIME_TEXTS = {
    "step": "training steps",
    "data_wait": "waiting for data",
    "compile": "compiling",
    "evaluate": "evaluating",
    "save": "saving checkpoints",
    "data": "preparing data",
}


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
        length_kinds=LENGTHS,
        **_errors(metrics),
        few_examples=FEW,
        headline=_headline(panels),
        notes=evaluation_notes(metrics) if metrics is not None else [],
        cards=_evaluation_cards(panels) + _training_cards(run),
        panels=panels,
        charts=_charts(run),
        packing=run.packing if run is not None else {},
        time_parts=_time_parts(run),
        journeys=learning_journeys(records),
        samples=choose_samples(shown),
        sample_total=len(shown),
        tasks=sorted({each["task"] for each in shown}),
        holdouts=sorted({each["holdout"] for each in shown}, key=holdout_order),
        settings=_settings(run),
    )


def _primary(metrics: Mapping[str, Any] | None) -> str:
    return PRIMARY_METRIC if metrics is None else metrics["primary_metric"]


def _errors(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the section on errors needs besides: kinds, their numbers and colours."""
    tasks = metrics["breakdown"]["errors"].values() if metrics is not None else ()
    total = {kind.name: sum(task.get(kind.name, 0) for task in tasks) for kind in ERROR_KINDS}
    others = [kind.name for kind in ERROR_KINDS if kind.name not in _ERROR_COLOURS]
    palette = ("part-5", "part-4", "part-2", "floor-1", "part-1", "first", "second")
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
    if decoding.get("demonstrations_left_out"):
        notes.append(
            f"solved questions that {decoding['encoder_length']} tokens had no room for: "
            f"{decoding['demonstrations_left_out']:,}"
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


# --- the training run ---------------------------------------------------------------------------


def _training_cards(run: RunLog | None) -> list[dict[str, str]]:
    if run is None:
        return []
    cards = []
    validation = series(run.validation, "loss_per_token")
    training = series(run.train, "loss_per_token")
    if validation:
        step, loss = validation[-1]
        cards.append(
            {
                "label": "Validation loss",
                "value": loss_text(loss),
                "unit": "nats / token",
                "note": f"perplexity {math.exp(min(loss, 50)):,.1f} at step {step:,.0f}",
            }
        )
    elif training:
        cards.append(
            {
                "label": "Training loss",
                "value": loss_text(training[-1][1]),
                "unit": "nats / token",
                "note": f"at step {training[-1][0]:,.0f}",
            }
        )
    throughput = [value for _, value in series(run.train, "tokens_per_second")]
    if throughput:
        rows = [value for _, value in series(run.train, "sequences_per_second")]
        note = f"{number_label(statistics.median(rows))} sequences/s, " if rows else ""
        cards.append(
            {
                "label": "Throughput",
                "value": number_label(statistics.median(throughput)),
                "unit": "tokens / s",
                "note": f"{note}median over the run, padding not counted",
            }
        )
    if run.train:
        total = sum(run.seconds.values())
        cards.append(
            {
                "label": "Training",
                "value": f"{run.train[-1].get('step', 0):,}",
                "unit": "steps",
                "note": f"{duration(total)} in all" if total else "",
            }
        )
    return cards


def _charts(run: RunLog | None) -> list[LineChart]:
    """The loss curve first, then small ones; charts without data are left out."""
    if run is None:
        return []
    train, validation = run.train, run.validation
    charts = [
        line_chart(
            name="loss",
            title="Loss per target token (nats)",
            series=[
                Series("training", "first", series(train, "loss_per_token")),
                Series("validation", "second", series(validation, "loss_per_token")),
            ],
        ),
        line_chart(
            name="accuracy",
            title="Share of target tokens predicted right",
            series=[
                Series("training", "first", series(train, "accuracy")),
                Series("validation", "second", series(validation, "accuracy")),
            ],
            from_zero=True,
        ),
        line_chart(
            name="throughput",
            title="Tokens per second",
            series=[Series("tokens/s", "first", series(train, "tokens_per_second"))],
            from_zero=True,
        ),
        line_chart(
            name="gradient",
            title="Gradient norm",
            series=[Series("norm", "first", series(train, "gradient_norm"))],
            from_zero=True,
        ),
        line_chart(
            name="rate",
            title="Learning rate",
            series=[Series("rate", "first", series(train, "learning_rate"))],
            from_zero=True,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _time_parts(run: RunLog | None) -> list[dict[str, Any]]:
    """Parts of the wall time in the order of TIME_TEXTS, with their share."""
    if run is None or not run.seconds:
        return []
    total = sum(run.seconds.values()) or 1.0
    known = [key for key in TIME_TEXTS if key in run.seconds]
    other = sorted(key for key in run.seconds if key not in TIME_TEXTS)
    return [
        {
            "title": TIME_TEXTS.get(key, key),
            "style": f"part-{index % 6}",
            "seconds": run.seconds[key],
            "share": run.seconds[key] / total,
        }
        for index, key in enumerate([*known, *other])
    ]


def _settings(run: RunLog | None) -> list[dict[str, Any]]:
    """Config values that were set somewhere else than in the defaults, then the environment."""
    if run is None:
        return []
    changed = [
        {"key": key, "value": str(value), "origin": run.origins[key]}
        for key, value in run.config.items()
        if run.origins.get(key, "configs/base.py") != "configs/base.py"
    ]
    environment = [
        {"key": key, "value": str(value), "origin": "environment"}
        for key, value in run.environment.items()
    ]
    return changed + environment


# --- numbers as text ----------------------------------------------------------------------------


def percent(value: float) -> str:
    """A fraction as a figure from 0 to 100 with one digit."""
    return f"{100 * value:.1f}"


def loss_text(value: float | None) -> str:
    """A loss with three digits; a dash where it was not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval_text(difference: Mapping[str, float]) -> str:
    """The interval of a difference of fractions, as "+1.2…+3.4" on a scale of 100."""
    return f"{100 * difference['low']:+.1f}…{100 * difference['high']:+.1f}"


def range_text(bounds: Sequence[float | None]) -> str:
    """An interval of fractions as "1.2–3.4" on a scale of 100; a dash where it is unknown."""
    low, high = bounds
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def few_text(count: int) -> str:
    """How many of the wins before rest on few examples; "" for none."""
    return f" ({count} of them on fewer than {FEW} examples)" if count else ""


def duration(seconds: float) -> str:
    """Seconds as "1 h 02 min", "4 min 05 s" or "3.2 s"."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60 // 1:02.0f} s"
    return f"{seconds:.1f} s"
