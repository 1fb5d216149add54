"""Does the model read its instruction, or guess from the input alone?

The same inputs are answered under changed instructions (rewording.py). The answers are judged as if
nothing had changed, and the drop of the primary metric has a paired bootstrap interval. A model
that reads its instruction falls both where that is removed and where it is another task's; one
whose figure stays takes no notice of it, however good its figures are. Both are asked for, so the
number of changes gives chance no further tries (an intersection-union test: Berger, 1982,
"Multiparameter Hypothesis Testing and Acceptance Sampling"). And both must be large enough to
matter: other words in front of an input change even the noise that an untrained model writes, by
a point or two that any number of examples only makes more certain. Where the examples show neither
such a drop nor that there is none (an equivalence test: the whole interval below the least drop),
the verdict is undecided.

Questions are asked without demonstrations, for these tell the task as well as the instruction does.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from instructrec_jax.evaluation.metrics import (
    METRIC_BY_NAME,
    Judged,
    acceptable_targets,
)
from instructrec_jax.evaluation.protocol import FEW, Passes, cluster_of, nothing_to_run
from instructrec_jax.evaluation.rewording import (
    DENIAL_ANSWERS,
    FOLLOWS,
    IGNORES,
    VARIANTS,
    Variant,
    Wordings,
)
from instructrec_jax.evaluation.significance import (
    Difference,
    by_cluster,
    cluster_keys,
    mean_difference,
)
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.hashing import fraction

# Smallest drop of the primary metric, from 0 to 1, that counts as reading the instruction.
LEAST_DROP = 0.05
BETTER_WITHOUT = "better without it"
UNDECIDED = "undecided"
_FEW = " (few)"
# Figures that count tasks, and the verdict that each counts.
TASKS_BY_VERDICT = {
    "tasks_following": FOLLOWS,
    "tasks_ignoring": IGNORES,
    "tasks_undecided": UNDECIDED,
}
# Changed examples and the name of the stage, for the progress bar, to outputs.
Respond = Callable[[Sequence[InstructionExample], str], Sequence[str]]


@dataclass(frozen=True)
class Sensitivity:
    """`figures` as in metrics.json; one record a changed example for sensitivity.jsonl."""

    figures: dict[str, Any]
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class _Compared:
    """Statistics of one task under the true and a changed instruction, [clusters, counts]."""

    true: np.ndarray
    changed: np.ndarray
    keys: np.ndarray
    outputs: Sequence[str]


def measure_sensitivity(
    examples: Sequence[InstructionExample],
    outputs: Sequence[str],
    respond: Respond,
    *,
    primary: str,
    wordings: Wordings | None = None,
    examples_per_task: int = 0,
    passes: Passes = nothing_to_run,
) -> Sensitivity:
    """Answer the examples under each changed instruction and compare with the true one.

    Args:
        examples: with their true instructions.
        outputs: the model's answers to them; asked again where they have demonstrations.
        respond: gives the model's answers to changed examples.
        primary: the metric; of `METRICS`.
        wordings: what other phrasings and tasks there are; those of the examples where None.
        examples_per_task: at most so many of each task, chosen by hash; 0 = all.
        passes: runs code, where the metric is the pass rate.
    """
    chosen = _chosen(examples, examples_per_task)
    examples, outputs = _without_demonstrations(examples, outputs, chosen, respond)
    wordings = wordings or Wordings(examples)
    compared: dict[str, dict[str, _Compared]] = {}
    records: list[dict[str, Any]] = []
    for variant in VARIANTS:
        changed = {
            place: new
            for place in chosen
            if (new := variant.change(examples[place], wordings)) is not None
        }
        if not changed:
            continue
        answered = respond(list(changed.values()), f"instruction {variant.title}")
        places = dict(zip(changed, answered, strict=True))
        records += [
            {
                "id": examples[place].id,
                "task": examples[place].task,
                "variant": variant.name,
                "instruction": changed[place].instruction,
                "input": changed[place].input,
                "target": examples[place].target,
                "true_output": outputs[place],
                "output": output,
            }
            for place, output in places.items()
        ]
        for task in sorted({examples[place].task for place in places}):
            own = [place for place in places if examples[place].task == task]
            texts = [outputs[place] for place in own], [places[place] for place in own]
            asked = [examples[place] for place in own]
            found = _compared(asked, *texts, primary=primary, passes=passes)
            if found is not None:
                compared.setdefault(task, {})[variant.name] = found
    return Sensitivity(_figures(compared, primary=primary), records)


def _compared(
    examples: Sequence[InstructionExample],
    true: Sequence[str],
    changed: Sequence[str],
    *,
    primary: str,
    passes: Passes,
) -> _Compared | None:
    """Of one task's answers under the true and a changed instruction; None without a figure."""
    pair = [_statistics(examples, texts, primary, passes) for texts in (true, changed)]
    if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
        return None
    clusters = [cluster_of(example) for example in examples]
    return _Compared(
        by_cluster(pair[0], clusters),
        by_cluster(pair[1], clusters),
        cluster_keys(clusters),
        changed,
    )


def _chosen(examples: Sequence[InstructionExample], most: int) -> list[int]:
    """Places of at most so many examples of each task."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.task, []).append(place)
    kept = []
    for of_task in places.values():
        of_task.sort(key=lambda place: (fraction("sensitivity", examples[place].id), place))
        kept += of_task[:most] if most else of_task
    return sorted(kept)


def _without_demonstrations(
    examples: Sequence[InstructionExample],
    outputs: Sequence[str],
    chosen: Sequence[int],
    respond: Respond,
) -> tuple[Sequence[InstructionExample], Sequence[str]]:
    """The same examples zero-shot, and the answers to those that are chosen."""
    if not any(examples[place].demonstrations for place in chosen):
        return examples, outputs
    bare = [replace(example, demonstrations=()) for example in examples]
    answered = respond([bare[place] for place in chosen], "instruction true, zero-shot")
    known = dict(zip(chosen, answered, strict=True))
    return bare, [known.get(place, output) for place, output in enumerate(outputs)]


def _statistics(
    examples: Sequence[InstructionExample], outputs: Sequence[str], primary: str, passes: Passes
) -> np.ndarray | None:
    judged = [
        Judged(
            output=output,
            targets=acceptable_targets(target=example.target, references=example.references),
            options=example.options,
            passed=passed,
        )
        for example, output, passed in zip(
            examples, outputs, passes(examples, outputs), strict=True
        )
    ]
    return METRIC_BY_NAME[primary].statistics(judged)


def _figures(compared: Mapping[str, Mapping[str, _Compared]], *, primary: str) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for task, of_task in compared.items():
        variants = {
            variant.name: _row(variant, [of_task[variant.name]], primary=primary)
            for variant in VARIANTS
            if variant.name in of_task
        }
        tasks[task] = {"variants": variants, "verdict": overall_verdict(variants)}
    macro = {}
    for variant in VARIANTS:
        having = [each[variant.name] for each in compared.values() if variant.name in each]
        if having:
            macro[variant.name] = _row(variant, having, primary=primary)
    # Those of few examples are among them.
    counts = Counter(each["verdict"].removesuffix(_FEW) for each in tasks.values())
    return {
        "primary_metric": primary,
        "tasks": tasks,
        "macro": macro,
        "verdict": overall_verdict(macro),
        **{name: counts[verdict] for name, verdict in TASKS_BY_VERDICT.items()},
    }


def verdict_text(sensitivity: Mapping[str, Any]) -> str:
    """The verdict over all tasks, and in how many of them it is which."""
    tasks = len(sensitivity["tasks"])
    return (
        f"{sensitivity['verdict']}; of {tasks} {'task' if tasks == 1 else 'tasks'} it follows in "
        f"{sensitivity['tasks_following']}, ignores in {sensitivity['tasks_ignoring']}, "
        f"undecided in {sensitivity['tasks_undecided']}"
    )


def _row(variant: Variant, compared: Sequence[_Compared], *, primary: str) -> dict[str, Any]:
    """Figures of one task, or means over several."""
    of_sums = METRIC_BY_NAME[primary].of_sums
    pairs = [(each.true, each.changed) for each in compared]
    keys = [each.keys for each in compared]
    difference = mean_difference(primary, pairs, keys)
    outputs = [output for each in compared for output in each.outputs]
    # A document that gave examples to several tasks is one.
    clusters = len(np.unique(np.concatenate(keys)))
    row = {
        "tasks": len(pairs),
        "examples": len(outputs),
        "clusters": clusters,
        "true": float(np.mean([of_sums(true.sum(axis=0)) for true, _ in pairs])),
        "changed": float(np.mean([of_sums(changed.sum(axis=0)) for _, changed in pairs])),
        "drop": asdict(difference),
        "verdict": _verdict(variant, difference, clusters),
    }
    if variant.name == "contradicted":
        row["obeyed"] = float(np.mean([_is_denial(output) for output in outputs]))
    return row


def _verdict(variant: Variant, drop: Difference, clusters: int) -> str:
    if drop.high < 0:
        verdict = BETTER_WITHOUT
    elif _falls(variant, asdict(drop)):
        verdict = variant.when_falling
    else:
        verdict = variant.when_not if _stays(asdict(drop)) else UNDECIDED
    return verdict + _FEW if clusters < FEW else verdict


def _falls(variant: Variant, drop: Mapping[str, float]) -> bool:
    least = LEAST_DROP if variant.when_not == IGNORES else 0.0
    return drop["low"] > 0 and drop["value"] >= least


def _stays(drop: Mapping[str, float]) -> bool:
    return drop["high"] < LEAST_DROP


def overall_verdict(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """What the changes say together.

    "follows" where the figure falls under all that decide, "ignores its instruction" where under
    one of them it is shown not to, else "undecided".
    """
    telling = [each for each in VARIANTS if each.name in variants and each.when_not == IGNORES]
    deciding = [each for each in telling if each.decides] or telling
    if not deciding:
        return "nothing to change"
    rows = [(each, variants[each.name]) for each in deciding]
    if all(_falls(each, row["drop"]) for each, row in rows):
        verdict = FOLLOWS
    else:
        verdict = IGNORES if any(_stays(row["drop"]) for _, row in rows) else UNDECIDED
    return verdict + (_FEW if any(row["clusters"] < FEW for _, row in rows) else "")


def _is_denial(output: str) -> bool:
    return output.strip(" .!\"'“”。").casefold() in DENIAL_ANSWERS
