"""What only a comparison of documents and drafts can decide, one kind of group at a time.

Each function sees all records that share a key, sorts them and refuses some: held-out data come
first, then the smallest hash, so the verdicts depend neither on the order of work nor on chance.
A draft is refused once, by the first stage that objects; what is left reaches the stream "kept".
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from instructrec_jax.instructions import near_duplicates as near
from instructrec_jax.instructions.construct import DocumentKey, DraftKey
from instructrec_jax.instructions.demonstrations import POOL, Demonstrable
from instructrec_jax.instructions.example import SPLITS, TEST, TRAIN, VALIDATION
from instructrec_jax.instructions.flow import Emission, Group, Run
from instructrec_jax.instructions.phrasings import Phrasings
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.tally import Tally

# Held-out data comes first: where two splits share something, train loses it.
PRECEDENCE = {TEST: 0, VALIDATION: 1, TRAIN: 2}
EXAMPLES_PER_SHARD = 20_000
# Names of drafts that are left, kept for each that may be shown: long ones are never shown.
_SURVIVORS_PER_DEMONSTRATION = 8


class Verdict(NamedTuple):
    """Why a draft of a document is refused; `number` -1 stands for all that are not refused yet."""

    number: int
    reason: str


class Kept(NamedTuple):
    """A draft that is left when all groups have been looked at."""

    number: int
    label: str


class Compared(NamedTuple):
    """A draft that is compared to others by its words; in order."""

    rank: str
    place: str
    number: int
    words: bytes


def held_out_text(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Documents whose text, but for case and white space, is also in a held-out split."""
    documents: list[DocumentKey] = group["texts"]
    if len(documents) == 1:
        return
    owner = min((document.split for document in documents), key=PRECEDENCE.__getitem__)
    for document in documents:
        if document.split != owner:
            yield "refused_documents", document.place, "text_in_held_out_split"


def near_duplicates(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Documents nearly the same as another one of the same or a held-out split.

    One and the same document comes twice where a synthesiser has been at it: both stay or go.
    """
    if len(group["bands"]) == 1:
        return
    limit = run.recipe.filters.near_duplicate_similarity

    def like(first: DocumentKey, second: DocumentKey) -> bool:
        if first.identity == second.identity:
            return False
        return near.estimated_similarity(first.sketch, second.sketch) >= limit

    documents = sorted(
        group["bands"], key=lambda item: (PRECEDENCE[item.split], item.identity, item.place)
    )
    for document in near.followers(documents, like):
        yield "refused_documents", document.place, "near_duplicate"


def refuse_documents(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """The drafts of a document that is left go on, by what they ask."""
    (drafts,) = group["drafts"] or [()]
    reasons = group["refused_documents"]
    if not group["drafts"]:
        return
    if reasons:
        # The text that is wholly there comes before the one that is nearly there.
        reason = max(reasons)
        run.tally.count("document_refused", run.recipe.sources[int(key[:3])], reason)
        yield "verdicts", key, Verdict(-1, reason)
        return
    for draft in drafts:
        yield "questions", f"{draft.task}/{draft.question}", draft


def answer_questions(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Questions of a task that have several targets go, all of them; others are asked once.

    A group holds the questions that differ in case alone. That may tell two questions of a split
    apart (of code it does), never those of two splits: there train loses them.
    """
    drafts = _in_order(group["questions"])
    filters = run.recipe.filters
    targets: dict[str, set[str]] = {}
    for draft in drafts:
        targets.setdefault(draft.asked, set()).add(draft.target)
    owner = ""
    first: set[tuple[str, str]] = set()
    for draft in drafts:
        if filters.uses("contradiction") and len(targets[draft.asked]) > 1:
            yield _refused(draft, "contradiction")
            continue
        owner = owner or draft.split
        if draft.split != owner:
            yield _refused(draft, "answer_in_held_out_split")
        elif (draft.asked, draft.target) in first and filters.uses("duplicate"):
            yield _refused(draft, "duplicate")
        else:
            first.add((draft.asked, draft.target))
            yield "answers", draft.answer, draft


def held_out_answers(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Answered questions, but for case and white space, that a held-out split has."""
    drafts = _in_order(group["answers"])
    for draft in drafts:
        if draft.split != drafts[0].split:
            yield _refused(draft, "answer_in_held_out_split")
            continue
        name = _draft_name(draft)
        if draft.words:
            for band, bucket in enumerate(near.rouge_buckets(draft.words)):
                # Most buckets hold one draft: many of them make a group.
                yield "buckets", f"{draft.task}/{band}/{bucket[0]}", (bucket, name)
        yield "compared", name, draft


def shared_buckets(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Where drafts of several documents meet; drafts of one are made to differ in little."""
    for bucket, found in groupby(sorted(group["buckets"]), key=itemgetter(0)):
        names = [name for _, name in found]
        if len(names) > 1 and len({name.partition("/")[0] for name in names}) > 1:
            for name in names:
                yield "meetings", name, f"{key}/{bucket.hex()}"


def words_of_meetings(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """The words of a draft go to each bucket in which it meets another one."""
    for bucket in group["meetings"]:
        (draft,) = group["compared"]
        yield "similar", bucket, Compared(_rank(draft), draft.place, draft.number, draft.words)


def similar_questions(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """Drafts whose words are, by ROUGE-L, nearly those of a draft of another document."""
    drafts: list[Compared] = sorted(group["similar"])
    texts = [(draft.place, draft.words) for draft in drafts]
    for number in near.rouge_followers(texts, limit=run.recipe.filters.max_rouge):
        yield "refused_drafts", _draft_name(drafts[number]), "similar_question"


def survivors(key: str, group: Group, run: Run) -> Iterator[Emission]:
    """What is left of each task; counted by label and, where there is a cap, by smallest hash."""
    (draft,) = group["compared"]
    if group["refused_drafts"]:
        yield _refused(draft, "similar_question")
        return
    run.tally.count("survivors", draft.task, draft.split, draft.label)
    cap = _cap(run.recipe, run.phrasings, draft.task, draft.split)
    if cap:
        run.tally.keep(
            "smallest", draft.task, draft.split, draft.label,
            order=draft.identity, value=None, most=cap,
        )  # fmt: skip
    if draft.split == TRAIN and run.recipe.demonstrations:
        order = f"{draft.identity}.{draft.place}.{draft.number}"
        most = POOL * _SURVIVORS_PER_DEMONSTRATION
        run.tally.keep("demonstrable", draft.task, order=order, value=None, most=most)
    yield "kept", draft.place, Kept(draft.number, draft.label)


@dataclass(frozen=True)
class Bounds:
    """What the whole says on each draft that is left.

    `shares`: of the drafts of a (task, label), by hash, the share that is kept; `last`: the last
    identity of a (task, split) within its cap; `shards`: the number of files of each split;
    `pools`: of each task the drafts that demonstrations are chosen from.
    """

    shares: dict[tuple[str, str], float] = field(default_factory=dict)
    last: dict[tuple[str, str], str] = field(default_factory=dict)
    shards: dict[str, int] = field(default_factory=dict)
    pools: dict[str, tuple[Demonstrable, ...]] = field(default_factory=dict)

    def objection(self, task: str, split: str, label: str, identity: str) -> str:
        """Why the draft is refused, "" if it is not."""
        if split == TRAIN and _place(identity) >= self.shares.get((task, label), 1.0):
            return "common_label"
        if identity > self.last.get((task, split), identity):
            return "over_test_cap" if split == TEST else "over_cap"
        return ""


def bounds_of(recipe: Recipe, tally: Tally) -> Bounds:
    """The bounds by the counts of all drafts that survived."""
    labels: dict[tuple[str, str], Counter[str]] = {}
    for (task, split, label), count in tally.of("survivors"):
        labels.setdefault((task, split), Counter())[label] = count
    shares = {
        (task, label): share
        for (task, split), counts in labels.items()
        if split == TRAIN and recipe.filters.uses("label_balance")
        for label, share in label_shares(counts, recipe.filters.label_ratio).items()
    }
    phrasings = Phrasings.of(recipe)
    last = {}
    examples = dict.fromkeys(SPLITS, 0)
    for (task, split), counts in labels.items():
        count = sum(
            round(number * shares.get((task, label), 1.0)) if split == TRAIN else number
            for label, number in counts.items()
        )
        cap = _cap(recipe, phrasings, task, split)
        if cap:
            identities = sorted(
                identity
                for label in counts
                for identity, _ in tally.first.get(("smallest", task, split, label), ())
                if split != TRAIN or _place(identity) < shares.get((task, label), 1.0)
            )
            if len(identities) >= cap:
                last[task, split] = identities[cap - 1]
            count = min(len(identities), cap)
        examples[split] += count * phrasings.number(task, split)
    shards = {split: max(1, -(-count // EXAMPLES_PER_SHARD)) for split, count in examples.items()}
    return Bounds(shares, last, shards, _pools(recipe, tally))


def _pools(recipe: Recipe, tally: Tally) -> dict[str, tuple[Demonstrable, ...]]:
    """Of each task the proposed demonstrations that no stage refused."""
    pools = {}
    for task in recipe.chosen_tasks:
        sound = {order for order, _ in tally.first.get(("demonstrable", task), ())}
        proposed = tally.first.get(("demonstration", task), ())
        pools[task] = tuple(item for order, item in proposed if order in sound)
    return pools


def label_shares(counts: Counter[str], ratio: float) -> dict[str, float]:
    """The share to keep of a label that is over `ratio` times as frequent as the next one."""
    ranked = [(label, count) for label, count in counts.most_common() if label]
    if len(ranked) < 2:
        return {}
    (label, most), (_, second) = ranked[:2]
    return {label: ratio * second / most} if most > ratio * second else {}


def _cap(recipe: Recipe, phrasings: Phrasings, task: str, split: str) -> int:
    """How many drafts of a task a split may have, 0 = any number."""
    if split == TEST:
        return recipe.max_test_examples
    most = recipe.max_examples_per_task
    # At least one question is kept under the smallest cap.
    return max(1, most // recipe.phrasings_per_example) if split == TRAIN and most else 0


def _in_order(drafts: list[DraftKey]) -> list[DraftKey]:
    return sorted(drafts, key=lambda d: (_rank(d), d.place, d.number))


def _rank(draft: DraftKey) -> str:
    return f"{PRECEDENCE[draft.split]}{draft.identity}"


def _refused(draft: DraftKey, reason: str) -> Emission:
    return "verdicts", draft.place, Verdict(draft.number, reason)


def _draft_name(draft: DraftKey | Compared) -> str:
    return f"{draft.place}/{draft.number}"


def _place(identity: str) -> float:
    """Where in [0, 1) a hash lies."""
    return int(identity, 16) / 2.0 ** (4 * len(identity))
