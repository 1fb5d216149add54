"""Which solved questions of the same task are shown in front of a question.

Training on a mixture of questions with and without demonstrations helps both (FLAN 2022, Longpre et
al. 2023). What is shown hangs on the seed, the example's id and the set of questions to choose from
alone, never on their order. How much of it fits, few_shot.py says where there is a tokenizer.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document, Draft
from instructrec_jax.instructions.example import Demonstration, InstructionExample
from instructrec_jax.instructions.templates import Template

# Drafts of each task that a build chooses from.
POOL = 32
# Examples that training chooses from: of a task whose records name no template, and of each
# template where they do.
_POOL_OF_TASK, _POOL_OF_TEMPLATE = 1_024, 64
# The longest demonstration, in characters of its material and target.
LONGEST_DEMONSTRATION = 600
# An open answer of so many characters, white space left out, must not stand in what is shown.
_LONG_ANSWER = 24
# What so many other questions have for an answer is a label, and told by none of them.
_LABEL = 2


@dataclass(frozen=True)
class Demonstrable:
    """A draft of the train split; `document` is its document's group, `identity` its own name."""

    draft: Draft
    document: str
    identity: str


@dataclass(frozen=True)
class FewShot:
    """At train time: the share of examples that are shown 1 to `most` solved questions."""

    share: float = 0.0
    most: int = 3
    seed: int = 0


def group_of(document: Document) -> str:
    """What tells documents apart whose drafts may be shown with one another."""
    return document.group or document.identity


def demonstration_count(example: str, *, share: float, most: int, seed: int) -> int:
    """How many demonstrations the example of this id gets: 0, or for a `share` of ids 1 to most."""
    if hashing.fraction(seed, "few shot", example) >= share:
        return 0
    return 1 + int(hashing.fraction(seed, "shots", example) * most)


def with_demonstrations(
    example: InstructionExample,
    pool: Iterable[Demonstrable],
    *,
    document: str,
    template: Template,
    count: int,
    seed: int,
) -> InstructionExample:
    """The example with up to `count` solved questions of a build.

    Args:
        example: the question.
        pool: train drafts of the example's task. Those of the example's own group, and those
            that ask the same or, but for closed choices and labels, answer the same, are never
            shown; nor is any shown twice.
        document: the group of the example's document, as in `Demonstrable.document`.
        template: of the example; the demonstrations are phrased by it too.
        count: at most so many.
        seed: the build's. Which are shown depends on it, the example's id and the set of `pool`.
    """
    if not count:
        return example
    ranked = sorted(
        (item for item in pool if item.document != document),
        key=lambda item: hashing.digest(seed, "demonstration", example.id, item.identity),
    )
    shown = different(
        example,
        (_rendered(item.draft, template) for item in ranked),
        count,
        answers_of((item.draft.input, item.draft.target) for item in ranked),
    )
    return replace(example, demonstrations=shown)


class Pools:
    """Train examples as demonstrations of one another, where the data bring none.

    Of each task, or of each template of it where the records name one, those with the smallest
    hash of seed and id.
    """

    def __init__(self, examples: Iterable[InstructionExample], settings: FewShot) -> None:
        """Read all train examples once."""
        self._settings = settings
        self._pools: dict[tuple[str, str], list[tuple[str, str, InstructionExample]]] = {}
        for example in examples:
            if len(material_of(example)) + len(example.target) > LONGEST_DEMONSTRATION:
                continue
            most = _POOL_OF_TEMPLATE if example.template else _POOL_OF_TASK
            order = hashing.digest(settings.seed, "demonstration", example.id)
            pool = self._pools.setdefault((example.task, example.template), [])
            if len(pool) < most or order <= pool[-1][0]:
                # Ids may come twice; then the texts decide.
                text = hashing.digest(example.instruction, example.input, example.target)
                bisect.insort(pool, (order, text, example), key=lambda item: item[:2])
                del pool[most:]
        self._answers = {
            key: answers_of((material_of(item), item.target) for _, _, item in pool)
            for key, pool in self._pools.items()
        }

    def shown_to(self, example: InstructionExample) -> InstructionExample:
        """The train example with its solved questions, for the share of examples that get any.

        Never itself, nor one that asks the same or, but for closed choices and labels, answers the
        same. What brings demonstrations of its own keeps these.
        """
        count = demonstration_count(
            example.id,
            share=self._settings.share,
            most=self._settings.most,
            seed=self._settings.seed,
        )
        if not count or example.demonstrations:
            return example
        key = example.task, example.template
        pool = self._pools.get(key, [])
        # Not all of the pool in a new order: some more than are needed, as some will not do.
        random = hashing.generator(self._settings.seed, "demonstrations", example.id)
        places = random.sample(range(len(pool)), min(len(pool), 8 * count + 8))
        found = (pool[place][2] for place in places)
        solved = (as_demonstration(item) for item in found if item.id != example.id)
        shown = different(example, solved, count, self._answers.get(key, {}))
        return replace(example, demonstrations=shown)


def answers_of(solved: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """{answer: some questions with it} of pairs (question, answer), for `different`."""
    answers: dict[str, set[str]] = {}
    for question, answer in solved:
        questions = answers.setdefault(_plain(answer), set())
        if len(questions) <= _LABEL:
            questions.add(_plain(question))
    return answers


def different(
    example: InstructionExample,
    solved: Iterator[Demonstration],
    count: int,
    answers: Mapping[str, set[str]],
) -> tuple[Demonstration, ...]:
    """The first `count` that neither give the example's answer away nor repeat one another.

    A closed choice or a label is not given away: were it never among what is shown, the others
    would tell it. `answers` are from `answers_of`, of all that might be shown.
    """
    question, answer = _plain(material_of(example)), _plain(example.target)
    closed = bool(example.options) or len(answers.get(answer, set()) - {question}) >= _LABEL
    shown: list[Demonstration] = []
    seen: set[tuple[str, str]] = set()
    for item in solved:
        if len(shown) == count:
            break
        asked = _plain(material_of(item)), _plain(item.target)
        if asked in seen or asked[0] == question:
            continue
        if not closed and _tells(answer, asked):
            continue
        shown.append(item)
        seen.add(asked)
    return tuple(shown)


def _tells(answer: str, asked: Sequence[str]) -> bool:
    """Whether an open answer is that of the solved question, or stands in it at length."""
    return asked[1] == answer or (len(answer) >= _LONG_ANSWER and any(answer in t for t in asked))


def material_of(question: InstructionExample | Demonstration) -> str:
    """What is asked about; of a question that has no material, the instruction asks all."""
    return question.input or question.material or question.instruction


def _rendered(draft: Draft, template: Template) -> Demonstration:
    instruction, text = template.render(draft)
    return Demonstration(instruction, text, draft.target, "" if text else draft.input)


def as_demonstration(example: InstructionExample) -> Demonstration:
    """The example as a solved question."""
    return Demonstration(example.instruction, example.input, example.target, example.material)


def _plain(text: str) -> str:
    return "".join(text.casefold().split())
