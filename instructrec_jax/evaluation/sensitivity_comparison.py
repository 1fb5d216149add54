"""Which of several evaluated models reads its instruction more: their drops side by side.

Each run's own figures stand in its metrics.json (sensitivity.py). Two runs are compared on the
changed examples that both answered: the difference of their drops has a bootstrap interval of
which every draw holds the same examples for both runs and both instructions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from instructrec_jax.evaluation.metrics import (
    METRIC_BY_NAME,
    OF_SUMS,
    Judged,
    acceptable_targets,
)
from instructrec_jax.evaluation.rewording import VARIANTS
from instructrec_jax.evaluation.sensitivity import TASKS_BY_VERDICT
from instructrec_jax.evaluation.significance import (
    Difference,
    by_cluster,
    cluster_keys,
    interval,
    resampled,
)

# The lines of a run's sensitivity.jsonl.
Records = Sequence[Mapping[str, Any]]


def compare_sensitivity(
    runs: Sequence[tuple[str, Mapping[str, Any], Records]],
    predictions: Sequence[Mapping[str, Any]],
    *,
    metric: str,
) -> dict[str, Any] | None:
    """Drops of each run, and of each further run those less the first one's; None without any.

    Args:
        runs: name, metrics.json and sensitivity.jsonl of each run; of a run that was not asked
            under changed instructions, no lines.
        predictions: lines of one run's predictions.jsonl, for acceptable answers and options.
        metric: what the drops are of where two runs are compared; code that was not run
            (`pass_rate`) is not.
    """
    measured = [
        (name, held, lines)
        for name, metrics, lines in runs
        if lines and (held := metrics.get("sensitivity"))
    ]
    if not measured:
        return None
    asked = {(each["id"], each["task"]): each for each in predictions}
    first_name, _, first = measured[0]
    shown = {name: _with_demonstrations(metrics) for name, metrics, _ in runs}
    alike = [each for each in measured[1:] if shown[each[0]] == shown[first_name]]
    comparable = [] if metric == "pass_rate" else alike
    return {
        "metric": metric,
        "runs": [
            {
                "name": run,
                "primary_metric": figures["primary_metric"],
                "verdict": figures["verdict"],
                "tasks": len(figures["tasks"]),
                # None in an evaluation of an earlier version, whose verdicts were two.
                **{name: figures.get(name) for name in TASKS_BY_VERDICT},
                "variants": figures["macro"],
            }
            for run, figures, _ in measured
        ],
        "pairs": [
            {
                "first": first_name,
                "second": name,
                "variants": _variants(first, lines, asked, metric=metric),
            }
            for name, _, lines in comparable
        ],
        # Asked with demonstrations where the first was not, or the other way round.
        "asked_otherwise": [name for name, _, _ in measured if shown[name] != shown[first_name]],
    }


def _with_demonstrations(metrics: Mapping[str, Any]) -> bool:
    """Whether changed instructions came behind solved questions: not from format 3 on."""
    return metrics.get("format_version", 0) < 3 and metrics.get("decoding", {}).get("shots", 0) > 0


def _variants(
    first: Records,
    second: Records,
    asked: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    metric: str,
) -> dict[str, Any]:
    """{variant: figures} of what both answered under the same words."""
    found = {}
    for variant in VARIANTS:
        old, new = ({_key(each): each for each in lines if each["variant"] == variant.name}
                    for lines in (first, second))  # fmt: skip
        tasks: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
        for key, record in old.items():
            if key in new and (record["id"], record["task"]) in asked:
                tasks.setdefault(record["task"], []).append((record, new[key]))
        rows = [
            row
            for pairs in tasks.values()
            if (row := _drops(pairs, asked, metric=metric)) is not None
        ]
        if rows:
            values = np.mean([row[0] for row in rows], axis=0)
            low, high = interval(np.mean([row[1] for row in rows], axis=0))
            found[variant.name] = {
                "tasks": len(rows),
                "examples": sum(map(len, tasks.values())),
                "first": float(values[0]),
                "second": float(values[1]),
                "difference": asdict(Difference(float(values[1] - values[0]), low, high)),
            }
    return found


def _key(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(record[name]) for name in ("task", "id", "instruction", "input"))


def _drops(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    asked: Mapping[tuple[str, str], Mapping[str, Any]],
    *,
    metric: str,
) -> tuple[tuple[float, float], np.ndarray] | None:
    """Both drops of a task, and the resampled differences of them; None where it has no figure."""
    of_sums = OF_SUMS[metric]
    examples = [asked[old["id"], old["task"]] for old, _ in pairs]
    clusters = [str(each.get("cluster", each["id"])) for each in examples]
    keys = cluster_keys(clusters)
    drops, drawn = [], []
    for run in (0, 1):
        counts = [
            METRIC_BY_NAME[metric].statistics(
                [
                    _judged(pair[run][name], example)
                    for pair, example in zip(pairs, examples, strict=True)
                ]
            )
            for name in ("true_output", "output")
        ]
        if counts[0] is None or counts[1] is None:
            return None
        drops.append(float(of_sums(counts[0].sum(axis=0)) - of_sums(counts[1].sum(axis=0))))
        true, changed = (
            resampled(of_sums, by_cluster(each, clusters), keys=keys)
            for each in counts
            if each is not None
        )
        drawn.append(true - changed)
    return (drops[0], drops[1]), drawn[1] - drawn[0]


def _judged(output: str, example: Mapping[str, Any]) -> Judged:
    targets = acceptable_targets(target=example["target"], references=example["references"])
    return Judged(output, targets, tuple(example.get("options", ())))
