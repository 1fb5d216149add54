"""What the report says of a training run: its cards, charts, tables and settings."""

import math
import statistics
from typing import Any

from instructrec_jax.evaluation.charts import LineChart, Series, line_chart, number_label
from instructrec_jax.evaluation.run_log import EVENTS, RunLog, by_task, series
from instructrec_jax.evaluation.wording import duration, loss_text, percent

_EVENTS_SHOWN = 20

# Parts of the wall time: key in metrics.jsonl, title. Unknown keys show under their own name.
TIME_TEXTS = {
    "step": "training steps",
    "data_wait": "waiting for data",
    "compile": "compiling",
    "evaluate": "evaluating",
    "save": "saving checkpoints",
    "profile": "profiling",
    "data": "preparing data",
    "state": "making or restoring the state",
    "start": "starting",
    "lost": "steps done again",
}


def training_cards(run: RunLog | None) -> list[dict[str, str]]:
    """The figures on top; none without a run."""
    if run is None:
        return []
    cards = _loss_cards(run)
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
    use = [value for _, value in series(run.train, "mfu")]
    if use:
        cards.append(
            {
                "label": "Model-FLOP use",
                "value": percent(statistics.median(use)),
                "unit": "%",
                "note": "of the devices' dense bfloat16 peak, median over the run",
            }
        )
    peaks = {
        name: max((value for _, value in series(run.train, f"{name}_memory_peak")), default=0.0)
        for name in ("device", "host")
    }
    if peaks["host"]:
        of_device = (
            f"{peaks['device'] / 1e9:.1f} GB on the first device, " if peaks["device"] else ""
        )
        cards.append(
            {
                "label": "Memory",
                "value": number_label(round((peaks["device"] or peaks["host"]) / 1e9, 2)),
                "unit": "GB",
                "note": f"at the peak; {of_device}{peaks['host'] / 1e9:.1f} GB of the host",
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


def _loss_cards(run: RunLog) -> list[dict[str, str]]:
    """The last loss, of validation where there is one."""
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
    return cards


def run_charts(run: RunLog | None) -> list[LineChart]:
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
            name="use",
            title="Model-FLOP use (%)",
            series=[Series("MFU", "first", [(x, 100 * y) for x, y in series(train, "mfu")])],
            from_zero=True,
        )
        or line_chart(
            name="use",
            title="Operations a second (GFLOP/s)",
            series=[
                Series(
                    "GFLOP/s", "first", [(x, y / 1e9) for x, y in series(train, "flops_per_second")]
                )
            ],
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


def task_rows(run: RunLog | None) -> list[dict[str, Any]]:
    """Loss a token of each task over the run, the highest last one first."""
    if run is None:
        return []
    train, validation = by_task(run.train), by_task(run.validation)
    rows = []
    for task in sorted(train.keys() | validation.keys()):
        points, checked = train.get(task, []), validation.get(task, [])
        chart = line_chart(
            name="",
            title=task,
            series=[Series("training", "first", points), Series("validation", "second", checked)],
        )
        rows.append(
            {
                "task": task,
                "chart": chart,
                "first": points[0][1] if points else None,
                "last": points[-1][1] if points else None,
                "validation": checked[-1][1] if checked else None,
            }
        )
    return sorted(rows, key=lambda row: -(row["validation"] or row["last"] or 0.0))


def event_rows(run: RunLog | None) -> list[dict[str, Any]]:
    """The newest steps out of the row."""
    if run is None:
        return []
    return [
        {
            "step": event.get("step", 0),
            "what": EVENTS[event["kind"]],
            "loss": _figure(event.get("loss")),
            "norm": _figure(event.get("gradient_norm")),
        }
        for event in run.events[-_EVENTS_SHOWN:]
    ]


def _figure(value: Any) -> str:
    # metrics.jsonl has no word for what is not finite.
    return "not finite" if value is None else number_label(value)


def time_parts(run: RunLog | None) -> list[dict[str, Any]]:
    """Parts of the wall time in the order of TIME_TEXTS, with their share."""
    if run is None or not run.seconds:
        return []
    total = sum(run.seconds.values()) or 1.0
    known = [key for key in TIME_TEXTS if key in run.seconds]
    other = sorted(key for key in run.seconds if key not in TIME_TEXTS)
    return [
        {
            "title": TIME_TEXTS.get(key, key),
            "style": f"part-{index % 9}",
            "seconds": run.seconds[key],
            "share": run.seconds[key] / total,
        }
        for index, key in enumerate([*known, *other])
    ]


def setting_rows(run: RunLog | None) -> list[dict[str, Any]]:
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
