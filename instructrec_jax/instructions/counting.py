"""What dataset.json and the datasheet say of a build, out of what its stages counted."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from instructrec_jax.instructions.example import SPLITS, TEST, TRAIN
from instructrec_jax.instructions.phrasings import Phrasings, unseen_task
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.splitting import HOLDOUTS
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.tasks import Task

# Reasons that are told where nothing is left.
_TOP_REASONS = 4


def counts(tally: Tally, recipe: Recipe, phrasings: Phrasings) -> dict[str, Any]:
    """Counts of documents, drafts, examples, refusals, templates and languages of a dataset.

    Raises:
        AssertionError: drafts or documents that are neither used nor refused.
    """
    tasks = {name: _task(name, recipe.bank[name], tally, phrasings) for name in recipe.chosen_tasks}
    sources = {source: _source(source, tally) for source in recipe.used_sources}
    splits: Counter[str] = Counter()
    holdouts: Counter[str] = Counter()
    for (_, split, holdout), count in tally.of("examples"):
        splits[split] += count
        holdouts[holdout] += count
    reasons: Counter[str] = sum((Counter(task["rejected"]) for task in tasks.values()), Counter())
    counted = {
        "examples": {**{split: splits[split] for split in SPLITS}, "total": splits.total()},
        "holdouts": {holdout: holdouts[holdout] for holdout in HOLDOUTS},
        "funnel": {
            "drafts": sum(task["drafts"] for task in tasks.values()),
            "rejected": reasons.total(),
            "accepted": sum(task["accepted"] for task in tasks.values()),
        },
        "rejected_by_reason": dict(sorted(reasons.items())),
        "tasks": tasks,
        "templates": {
            "total": sum(map(len, phrasings.all.values())),
            "held_out": sum(map(len, phrasings.held_out.values())),
        },
        "languages": _languages(tally),
        "documents": sum(source["documents"] for source in sources.values()),
        "sources": sources,
    }
    return {**counted, "missing_examples": missing_examples(counted, recipe)}


def missing_examples(counted: dict[str, Any], recipe: Recipe) -> str:
    """A line on the tasks that came out without train or without test examples; "" for none.

    Without drafts a task says so by its zeros; what is held out has no train examples by intent.
    """
    made = {name: entry for name, entry in counted["tasks"].items() if entry["drafts"]}
    untrained = [
        name
        for name, entry in made.items()
        if TRAIN not in entry["examples"] and not unseen_task(name, recipe)
    ]
    untested = [name for name, entry in made.items() if TEST not in entry["examples"]]
    parts = [
        f"no {split} example: {', '.join(names)}"
        for split, names in ((TRAIN, untrained), (TEST, untested))
        if names and (split == TRAIN or recipe.test_fraction)
    ]
    return "; ".join(parts)


def why_nothing_is_left(tally: Tally) -> str:
    """A line on what became of everything, where no example of train is left: the top reasons."""
    unreadable: Counter[str] = Counter()
    for (_, reason), count in tally.of("unreadable"):
        unreadable[reason] += count
    refused: Counter[str] = Counter()
    for (_, reason), count in tally.of("rejected"):
        refused[reason] += count
    documents: Counter[str] = Counter()
    for (_, reason), count in tally.of("document_refused"):
        documents[reason] += count
    drafts = sum(count for _, count in tally.of("drafts"))
    read = sum(count for _, count in tally.of("documents"))
    held_out = sum(count for _, count in tally.of("examples"))
    parts = [f"{read:,} documents read{_told(documents, 'left out: ')}"]
    parts += [f"{unreadable.total():,} items not read{_told(unreadable)}"] if unreadable else []
    parts += (
        [f"{drafts:,} drafts made, {refused.total():,} refused{_told(refused)}"] if read else []
    )
    parts += [f"{held_out:,} examples, all of them held out"] if held_out else []
    return "; ".join(parts)


def _told(reasons: Counter[str], what: str = "") -> str:
    """The most frequent reasons with their counts, in brackets."""
    most = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(_TOP_REASONS))
    return f" ({what}{most})" if most else ""


def _task(name: str, task: Task, tally: Tally, phrasings: Phrasings) -> dict[str, Any]:
    drafts, accepted = tally.counts["drafts", name], tally.counts["accepted", name]
    rejected = dict(tally.counter("rejected", name))
    assert drafts == accepted + sum(rejected.values()), (name, drafts, accepted, rejected)
    examples = {split: dict(tally.counter("examples", name, split)) for split in SPLITS}
    measured = {
        side: lengths(tally.counter("length", name, side)) for side in ("encoder", "target")
    }
    return {
        "target_source": task.target_source,
        "kinds": list(task.kinds),
        "composition": list(task.composition or ()),
        "examples": {split: held for split, held in examples.items() if held},
        "drafts": drafts,
        "accepted": accepted,
        "rejected": rejected,
        "lengths": measured if accepted else {},
        "held_out_templates": [template.id for template in phrasings.held_out[name]],
    }


def _source(source: str, tally: Tally) -> dict[str, Any]:
    """Items found = documents + unreadable ones; documents = used + left without an example."""
    documents = tally.counts["documents", source]
    unreadable = dict(tally.counter("unreadable", source))
    fates = tally.counter("document_fate", source)
    refused = dict(tally.counter("document_refused", source))
    assert documents == fates.total() + sum(refused.values()), (source, documents, fates, refused)
    return {
        "items": documents + sum(unreadable.values()),
        "unreadable": unreadable,
        "documents": documents,
        "documents_used": fates["used"],
        "documents_without_drafts": fates["without_drafts"],
        "documents_refused": {**refused, "all_drafts_refused": fates["all_drafts_refused"]},
        "characters": tally.counts["characters", source],
        "splits": {split: tally.counts["document_split", source, split] for split in SPLITS},
        "licences": dict(tally.counter("licence", source)),
        "encodings": dict(tally.counter("encoding", source)),
        "sha256": f"{tally.counts['digest', source] % 2**256:064x}",
    }


def _languages(tally: Tally) -> list[dict[str, Any]]:
    directions = dict(tally.of("direction"))
    names = {name for pair in directions for name in pair} - {"English"}
    rows = [
        {
            "name": name,
            "from_english": directions.get(("English", name), 0),
            "to_english": directions.get((name, "English"), 0),
        }
        for name in sorted(names)
    ]
    return sorted(rows, key=lambda row: -row["from_english"] - row["to_english"])


def lengths(counted: Counter[int]) -> dict[str, float]:
    """Mean, median, 95th percentile and maximum of lengths in characters, given how often each."""
    total = counted.total()
    if not total:
        return {}
    ordered = sorted(counted.items())
    return {
        "mean": round(sum(length * count for length, count in ordered) / total, 1),
        "median": _at(ordered, total // 2),
        "p95": _at(ordered, int(0.95 * (total - 1))),
        "max": ordered[-1][0],
    }


def _at(ordered: list[tuple[int, int]], place: int) -> int:
    """The length at a place of the sorted lengths."""
    for length, count in ordered:
        if place < count:
            return length
        place -= count
    return ordered[-1][0]


def histogram(counted: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(Length, how often) pairs by powers of two: (upper bound, how many lie in the last doubling).

    A bin holds the lengths from half its bound on.
    """
    bins: Counter[int] = Counter()
    for length, count in counted:
        bins[max(1, length).bit_length()] += count
    return [(2**bits, bins[bits]) for bits in range(1, max(bins, default=0) + 1)]
