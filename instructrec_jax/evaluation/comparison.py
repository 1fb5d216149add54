"""Two or more evaluations of the same examples, side by side with paired significance.

Every further evaluation is compared with the first. On each task and hold-out: the difference of
the primary metric with its paired bootstrap interval, its p-value by approximate randomisation, and
the sign test on the figures of each document or question. Many tasks are many chances to be lucky:
the p-values of a pair are corrected over its tasks, and the verdict goes by them. Drops under
changed instructions stand beside each other too (sensitivity_comparison.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.evaluation.benchmarks import BENCHMARKS
from instructrec_jax.evaluation.files import finite, json_text, write_whole
from instructrec_jax.evaluation.metrics import (
    METRIC_BY_NAME,
    OF_SUMS,
    PRIMARY_METRIC,
    Judged,
    example_metrics,
)
from instructrec_jax.evaluation.protocol import FEW, holdout_order, judged_of
from instructrec_jax.evaluation.report import interval_text, percent
from instructrec_jax.evaluation.rewording import VARIANTS
from instructrec_jax.evaluation.samples import cut, differing
from instructrec_jax.evaluation.sensitivity_comparison import compare_sensitivity
from instructrec_jax.evaluation.significance import (
    Difference,
    by_cluster,
    cluster_keys,
    corrected_p_values,
    interval,
    randomisation_p_value,
    resampled,
    sign_test,
    swapped_differences,
)

FORMAT_VERSION = 3
# Share of the larger evaluation's examples that all must have answered.
LEAST_COMMON = 0.5
SIGNIFICANT = 0.05
# More than for intervals, whose ends are not so far out as the p-values that decide.
_RESAMPLES = 10_000
_SAMPLES = 12
TEMPLATE = "comparison.html"
# What must be equal of an example for its answers to be compared.
_OF_A_QUESTION = ("task", "target", "references", "options", "instruction", "input")
_OF_A_CHANGED_QUESTION = ("id", "task", "instruction", "input", "variant", "output", "true_output")
BETTER, WORSE, UNDECIDED = "better", "worse", "no difference shown"

# What an example is found by: id, hold-out, and how many of that id came before.
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Evaluated:
    """One evaluation's files."""

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    predictions: Mapping[_Key, Mapping[str, Any]]
    sensitivity: Sequence[Mapping[str, Any]]


def compare_evaluations(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write comparison.json and comparison.html into `output`, return the former.

    Args:
        folders: output folders of `evaluate`; the first is what the others are compared with.
        output: folder, made where it is missing.

    Raises:
        ConfigError: fewer than two folders, or an output that cannot be written.
        DataError: no evaluation in a folder, or too few examples in common.
    """
    if len(folders) < 2:
        raise ConfigError(
            "--compare takes two or more folders with evaluations, set apart by commas"
        )
    runs = [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    common = _common(runs)
    metric = _metric(runs)
    pairs = [_pair(runs[0], other, common, metric=metric) for other in runs[1:]]
    comparison = finite(
        {
            "format_version": FORMAT_VERSION,
            "primary_metric": metric,
            "examples_in_common": len(common),
            "runs": [
                {
                    "name": run.name,
                    "folder": str(run.folder),
                    "checkpoint": run.metrics["checkpoint"]["description"],
                    "dataset": run.metrics["dataset"]["path"],
                    "examples": len(run.predictions),
                }
                for run in runs
            ],
            "pairs": pairs,
            "sensitivity": compare_sensitivity(
                [(run.name, run.metrics, run.sensitivity) for run in runs],
                [runs[0].predictions[key] for key in common],
                metric=metric,
            ),
        }
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / "comparison.json", json_text(comparison))
        write_whole(output / TEMPLATE, _page(comparison, runs, common))
    except OSError as error:
        raise ConfigError(f"--output={output} cannot be written: {error.strerror}") from error
    return comparison


def _names(folders: Sequence[Path]) -> list[str]:
    """A short name of each folder: the run's, or as much of the path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    parts = [each[:-1] if each[-1] == "evaluation" and len(each) > 2 else each for each in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{each[-1]} ({number})" for number, each in enumerate(parts, start=1)]


def _read(folder: Path, name: str) -> Evaluated:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        _ = metrics["checkpoint"]["description"], metrics["dataset"]["path"]
        _ = metrics["primary_metric"], (metrics.get("benchmark") or {}).get("name")
        if held := metrics.get("sensitivity"):
            _ = held["primary_metric"], held["verdict"], len(held["tasks"]), held["macro"].keys()
        predictions: dict[_Key, Mapping[str, Any]] = {}
        with (folder / "predictions.jsonl").open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                record = json.loads(line)
                _ = judged_of(record), record["chrf"] + 0
                key = (record["id"], record["holdout"], 0)
                while key in predictions:
                    key = (*key[:2], key[2] + 1)
                predictions[key] = record
        return Evaluated(name, folder, metrics, predictions, _changed_answers(folder))
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: {error.strerror}; give output folders of evaluate"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: its files are not those of evaluate: {error!r}") from error


def _changed_answers(folder: Path) -> list[dict[str, Any]]:
    """The lines of sensitivity.jsonl; [] where the instructions were not changed."""
    path = folder / "sensitivity.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="\n") as lines:
        records = [json.loads(line) for line in lines]
    for record in records:
        _ = [record[name] for name in _OF_A_CHANGED_QUESTION]
    return records


def _common(runs: Sequence[Evaluated]) -> list[_Key]:
    """Keys that all have, in the first one's order."""
    common = [key for key in runs[0].predictions if all(key in run.predictions for run in runs[1:])]
    most = max(len(run.predictions) for run in runs)
    if not common or len(common) < LEAST_COMMON * most:
        raise DataError(
            f"only {len(common):,} of up to {most:,} examples are in all of "
            f"{', '.join(str(run.folder) for run in runs)}: evaluate them on the same data"
        )
    for run in runs[1:]:
        _check_same_questions(runs[0], run, common)
    return common


def _check_same_questions(first: Evaluated, second: Evaluated, common: Sequence[_Key]) -> None:
    """Raise DataError where an example was not the same in both; its model's shots may differ."""
    fields = [*_OF_A_QUESTION]
    if _induces(first) and _induces(second):
        fields.remove("instruction")  # Each model wrote its own.
    for key in common:
        for name in fields:
            if first.predictions[key].get(name) != second.predictions[key].get(name):
                raise DataError(
                    f"the example {key[0]} has another {name} in {second.folder} than in "
                    f"{first.folder}: they were evaluated on different data or phrasings"
                )


def _induces(run: Evaluated) -> bool:
    held = run.metrics.get("benchmark") or {}
    benchmark = BENCHMARKS.get(held.get("name", ""))
    return benchmark is not None and benchmark.prepare is not None


def _metric(runs: Sequence[Evaluated]) -> str:
    names = {str(run.metrics["primary_metric"]) for run in runs}
    return names.pop() if len(names) == 1 and names <= METRIC_BY_NAME.keys() else PRIMARY_METRIC


def _pair(
    first: Evaluated, second: Evaluated, common: Sequence[_Key], *, metric: str
) -> dict[str, Any]:
    """The second evaluation against the first, by task and hold-out."""
    groups: dict[tuple[str, str], list[_Key]] = {}
    for key in common:
        record = first.predictions[key]
        groups.setdefault((record["task"], record["holdout"]), []).append(key)
    ordered = sorted(groups, key=lambda group: (group[0], holdout_order(group[1])))
    rows, drawn, swapped, drawn_by = [], [], [], []
    for task, holdout in ordered:
        row, differences, by_chance, keys = _group(
            first, second, groups[task, holdout], metric=metric
        )
        drawn_by.append(keys)
        rows.append({"task": task, "holdout": holdout, **row})
        drawn.append(differences)
        swapped.append(by_chance)
    values = [row["difference"]["value"] for row in rows]
    for row, corrected in zip(rows, corrected_p_values(values, swapped), strict=True):
        row["p_corrected"] = corrected
        row["verdict"] = _verdict(row["difference"]["value"], corrected, row["clusters"])
    macro = {}
    for holdout in sorted({name for _, name in ordered}, key=holdout_order):
        places = [place for place, group in enumerate(ordered) if group[1] == holdout]
        mean = np.mean([drawn[place] for place in places], axis=0)
        low, high = interval(mean)
        value = float(np.mean([rows[place]["difference"]["value"] for place in places]))
        by_chance = np.mean([swapped[place] for place in places], axis=0)
        p_value = randomisation_p_value(value, by_chance)
        # A document that gave examples to several tasks is one.
        clusters = len(np.unique(np.concatenate([drawn_by[place] for place in places])))
        macro[holdout] = {
            "tasks": len(places),
            "examples": sum(rows[place]["examples"] for place in places),
            "clusters": clusters,
            "first": float(np.mean([rows[place]["first"] for place in places])),
            "second": float(np.mean([rows[place]["second"] for place in places])),
            "difference": asdict(Difference(value, low, high)),
            "p_value": p_value,
            "verdict": _verdict(value, p_value, clusters),
        }
    return {"first": first.name, "second": second.name, "tasks": rows, "macro": macro}


def _group(
    first: Evaluated, second: Evaluated, common: Sequence[_Key], *, metric: str
) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray]:
    """One row without what needs the others; the differences of draws, by chance; their keys."""
    judged = [[judged_of(run.predictions[key]) for key in common] for run in (first, second)]
    name = metric
    counts = [_statistics(name, each) for each in judged]
    if counts[0] is None or counts[1] is None:
        name = PRIMARY_METRIC
        counts = [_statistics(name, each) for each in judged]
    # Evaluations of an earlier version name no clusters: each example is one.
    records = [{**second.predictions[key], **first.predictions[key]} for key in common]
    clusters = [str(each.get("cluster", key)) for key, each in zip(common, records, strict=True)]
    keys = cluster_keys(clusters)
    old, new = (by_cluster(each, clusters) for each in counts if each is not None)
    of_sums = OF_SUMS[name]
    figures = [float(of_sums(each.sum(axis=0))) for each in (old, new)]
    drawn = [resampled(of_sums, each, keys=keys, resamples=_RESAMPLES) for each in (old, new)]
    differences = drawn[1] - drawn[0]
    low, high = interval(differences)
    by_chance = swapped_differences(name, old, new, keys=keys, resamples=_RESAMPLES)
    own = [[row.get(name, 0.0) for row in example_metrics({name: each})] for each in (old, new)]
    row = {
        "examples": len(common),
        "clusters": len(old),
        "metric": name,
        "first": figures[0],
        "second": figures[1],
        "difference": asdict(Difference(figures[1] - figures[0], low, high)),
        "wins": sum(b > a for a, b in zip(*own, strict=True)),
        "losses": sum(b < a for a, b in zip(*own, strict=True)),
        "p_value": randomisation_p_value(figures[1] - figures[0], by_chance),
        "p_sign_test": sign_test(own[1], own[0]),
    }
    return row, differences, by_chance, keys


def _statistics(metric: str, judged: Sequence[Judged]) -> np.ndarray | None:
    return METRIC_BY_NAME[metric].statistics(judged)


def _verdict(difference: float, p_value: float, clusters: int) -> str:
    if p_value >= SIGNIFICANT:
        return UNDECIDED
    verdict = BETTER if difference > 0 else WORSE
    return f"{verdict} (few)" if clusters < FEW else verdict


def _page(comparison: Mapping[str, Any], runs: Sequence[Evaluated], common: Sequence[_Key]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "interval": interval_text,
        "signed": lambda value: f"{100 * value:+.1f}",
        "count": lambda value: f"{value:,}",
        "p": lambda value: "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0"),
    }
    return environment.get_template(TEMPLATE).render(
        comparison=comparison,
        metric=METRIC_BY_NAME[comparison["primary_metric"]],
        variants=VARIANTS,
        few=FEW,
        samples=[_changes(runs[0], other, common) for other in runs[1:]],
    )


def _changes(
    first: Evaluated, second: Evaluated, common: Sequence[_Key]
) -> dict[str, list[dict[str, Any]]]:
    """Answers that gained and lost most, by chrF."""

    def gain(key: _Key) -> float:
        return second.predictions[key]["chrf"] - first.predictions[key]["chrf"]

    ordered = sorted(common, key=lambda key: (gain(key), key))
    chosen = {
        "lost": [key for key in ordered[:_SAMPLES] if gain(key) < 0],
        "gained": [key for key in ordered[::-1][:_SAMPLES] if gain(key) > 0],
    }
    return {
        name: [
            {
                "task": (record := first.predictions[key])["task"],
                "holdout": record["holdout"],
                "gain": gain(key),
                "instruction": cut(record["instruction"]),
                "input": cut(record["input"]),
                "target": cut(record["target"]),
                "first": differing(record["output"], record["target"]),
                "second": differing(second.predictions[key]["output"], record["target"]),
            }
            for key in keys
        ]
        for name, keys in chosen.items()
    }
