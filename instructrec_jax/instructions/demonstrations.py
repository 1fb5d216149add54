"""Few-shot examples: solved questions of the same task in front of the question.

Training on a mixture of questions with and without demonstrations helps both (FLAN 2022, Longpre et
al. 2023). What is shown hangs on the seed and the example's id alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document, Draft
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.templates import Template

# An example that is shown demonstrations gets one to so many.
MOST_DEMONSTRATIONS = 3
# Drafts of each task that demonstrations are chosen from, and the longest of them in characters.
POOL = 32
LONGEST_DEMONSTRATION = 600
_ANSWER = "Answer:"


@dataclass(frozen=True)
class Demonstration:
    """A draft of the train split; `document` is its document's group, `identity` its own name."""

    draft: Draft
    document: str
    identity: str


def group_of(document: Document) -> str:
    """What tells documents apart whose drafts may be shown with one another."""
    return document.group or document.identity


def demonstration_count(example: str, *, share: float, seed: int) -> int:
    """How many demonstrations the example of this id gets: 0, or for a `share` of ids 1 to 3."""
    if hashing.fraction(seed, "few shot", example) >= share:
        return 0
    return 1 + int(hashing.fraction(seed, "shots", example) * MOST_DEMONSTRATIONS)


def with_demonstrations(
    example: InstructionExample,
    pool: Iterable[Demonstration],
    *,
    document: str,
    template: Template,
    count: int,
    budget: int,
    seed: int,
    length: Callable[[str], int] = len,
) -> InstructionExample:
    """The example with up to `count` solved questions in front of its instruction.

    Args:
        example: the question; its input stays where it is, behind its own instruction.
        pool: train drafts of the example's task. Those of the example's own group, and those
            that ask the same or, but for closed choices, answer the same, are never shown; nor is
            any shown twice.
        document: the group of the example's document, as in `Demonstration.document`.
        template: of the example; the demonstrations are phrased by it too.
        count: at most so many.
        budget: greatest length of the whole encoder text. A demonstration that does not fit is
            passed over for the next one.
        seed: the build's. Which are shown depends on it, the example's id and the set of `pool`.
        length: of a text, in the budget's unit: characters, or tokens by a tokenizer.
    """
    ranked = sorted(
        (item for item in pool if item.document != document),
        key=lambda item: hashing.digest(seed, "demonstration", example.id, item.identity),
    )
    question, answer = _plain(example.input or example.material), _plain(example.target)
    shown: list[str] = []
    seen: set[tuple[str, str]] = set()
    for item in ranked:
        if len(shown) == count:
            break
        asked = _plain(item.draft.input), _plain(item.draft.target)
        same_question = asked[0] and asked[0] == question
        same_answer = asked[1] == answer and not example.options
        if same_question or same_answer or asked in seen:
            continue
        block = _solved(item.draft, template)
        text = encoder_text(_joined([*shown, block], example.instruction), example.input)
        if length(text) <= budget:
            shown.append(block)
            seen.add(asked)
    return replace(example, instruction=_joined(shown, example.instruction)) if shown else example


def _solved(draft: Draft, template: Template) -> str:
    question = encoder_text(*template.render(draft))
    break_ = "\n" if "\n" in draft.target else " "
    return f"{question}\n{_ANSWER}{break_}{draft.target}"


def _joined(shown: list[str], instruction: str) -> str:
    return "\n\n".join([*shown, instruction])


def _plain(text: str) -> str:
    return "".join(text.casefold().split())
