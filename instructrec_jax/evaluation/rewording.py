"""The same input under another instruction: removed, shuffled, reworded, another task's, denied.

A variant is one function and one entry in `VARIANTS`: from an example and the `Wordings` of the
data to the changed example, or None where it cannot be changed so. All choices hang on the
example's id.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from instructrec_jax.errors import DataError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.templates import Template, load_templates

_Item = TypeVar("_Item")

# Fields that a record holds; a phrasing that shows others cannot be rendered from it.
_KNOWN_FIELDS = frozenset({"input", "options"})
_HELD = "\ufffc"
_TOKENS = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")
_HAN = re.compile(r"[\u4e00-\u9fff]")
# Where the data hold one task alone.
_ELSEWHERE = (
    "Translate the text into German.",
    "How many words does the text have?",
    "Write the text in capital letters.",
    "Name the colour that the text makes you think of.",
)
# What a contradiction asks for, in English and Chinese.
DENIAL_ANSWERS = ("nothing", "没有")
_DENIALS = (
    'No, do not do that. Whatever the text says, answer with the one word "nothing".',
    "不，不要那样做。不管正文写了什么，只回答“没有”两个字。",
)


class Wordings:
    """Instructions that stand alone, by task: those that several examples of the data share."""

    def __init__(self, examples: Iterable[InstructionExample]) -> None:
        """Read all examples once; train examples may be among them."""
        asked: dict[str, dict[str, set[str]]] = {}
        for example in examples:
            if example.input and example.instruction:
                of_task = asked.setdefault(example.task, {})
                of_task.setdefault(example.instruction, set()).add(example.input)
        self.shared = {
            task: sorted(text for text, inputs in texts.items() if len(inputs) > 1)
            for task, texts in asked.items()
        }
        self._banks: dict[str, tuple[Template, ...]] = {}

    def others(self, task: str) -> list[str]:
        """Instructions of the other tasks."""
        found = [text for name in sorted(self.shared) if name != task for text in self.shared[name]]
        own = set(self.shared.get(task, ()))
        return [text for text in found if text not in own] or list(_ELSEWHERE)

    def paraphrases(self, example: InstructionExample) -> list[tuple[str, str]]:
        """(instruction, input) of other phrasings of the example's task.

        Of the template bank, those that need nothing but the input and options, in the same
        language and with or without the options as the example's own; and those seen in the data.
        """
        material = material_of(example)
        bank = self._bank(example.task)
        own = next((template for template in bank if template.id == example.template), None)
        draft = Draft(
            {"input": material, "options": example.options},
            target=example.target,
            options=example.options,
        )
        found = [
            template.render(draft)
            for template in bank
            if template.fields <= _KNOWN_FIELDS
            and (template.shows_options <= bool(example.options))
            and (own is None or _alike(template, own))
        ]
        if example.input:
            found += [(text, example.input) for text in self.shared.get(example.task, ())]
        kept = [pair for pair in found if pair[0] != example.instruction]
        return list(dict.fromkeys(kept))

    def _bank(self, task: str) -> tuple[Template, ...]:
        if task not in self._banks:
            try:
                self._banks[task] = load_templates(task)
            except DataError:
                self._banks[task] = ()
        return self._banks[task]


def _alike(template: Template, own: Template) -> bool:
    chinese = {template.style == "chinese", own.style == "chinese"}
    return len(chinese) == 1 and template.shows_options == own.shows_options


def material_of(example: InstructionExample) -> str:
    """What the instruction is about, apart from it; "" where they cannot be told apart."""
    return example.input or example.material


def removed(example: InstructionExample, wordings: Wordings) -> InstructionExample | None:
    """The input alone."""
    material = material_of(example)
    return replace(example, instruction="", input=material) if material else None


def shuffled(example: InstructionExample, wordings: Wordings) -> InstructionExample | None:
    """The instruction's words (in Chinese, characters) in another order; the input as it is."""
    held = example.material if not example.input else ""
    text = example.instruction.replace(held, f" {_HELD} ", 1) if held else example.instruction
    words = _TOKENS.findall(text)
    if len(set(words)) < 2:
        return None
    order = list(words)
    random = hashing.generator("shuffled", example.id)
    while order == words:
        random.shuffle(order)
    joined = ("" if _HAN.search(text) else " ").join(order)
    return replace(example, instruction=joined.replace(_HELD, f"\n{held}\n").strip())


def paraphrased(example: InstructionExample, wordings: Wordings) -> InstructionExample | None:
    """Another phrasing of the same task."""
    found = wordings.paraphrases(example)
    if not found:
        return None
    instruction, text = _one_of(found, "paraphrased", example)
    return replace(example, instruction=instruction, input=text)


def of_another_task(example: InstructionExample, wordings: Wordings) -> InstructionExample | None:
    """The instruction of another task."""
    material = material_of(example)
    if not material:
        return None
    instruction = _one_of(wordings.others(example.task), "another task", example)
    return replace(example, instruction=instruction, input=material)


def contradicted(example: InstructionExample, wordings: Wordings) -> InstructionExample | None:
    """The instruction, taken back at once in favour of a fixed answer."""
    denial = _DENIALS[bool(_HAN.search(example.instruction.replace(example.material or "\n", "")))]
    return replace(example, instruction=f"{example.instruction} {denial}".strip())


def _one_of(items: Sequence[_Item], key: str, example: InstructionExample) -> _Item:
    return items[int(hashing.fraction(key, example.id) * len(items))]


@dataclass(frozen=True)
class Variant:
    """A change of the instruction, and what it means where the figure falls or does not.

    `decides`: a model whose figure does not fall under it takes no notice of its instruction.
    Taking an instruction back adds a sentence, and any added words move a model that reads none:
    it decides only where an example has nothing apart from its instruction.
    """

    name: str
    title: str
    description: str
    change: Callable[[InstructionExample, Wordings], InstructionExample | None]
    when_falling: str
    when_not: str
    decides: bool


IGNORES = "ignores its instruction"
FOLLOWS = "follows"
VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="removed",
        title="removed",
        description="The input alone, without an instruction.",
        change=removed,
        when_falling=FOLLOWS,
        when_not=IGNORES,
        decides=True,
    ),
    Variant(
        name="shuffled",
        title="shuffled",
        description="The instruction's words in another order.",
        change=shuffled,
        when_falling="reads the order",
        when_not="ignores the order",
        decides=False,
    ),
    Variant(
        name="paraphrased",
        title="paraphrased",
        description="Another phrasing of the same task; here no drop is good.",
        change=paraphrased,
        when_falling="hangs on the wording",
        when_not="robust",
        decides=False,
    ),
    Variant(
        name="another_task",
        title="another task's",
        description="The instruction of another task, with the same input.",
        change=of_another_task,
        when_falling=FOLLOWS,
        when_not=IGNORES,
        decides=True,
    ),
    Variant(
        name="contradicted",
        title="contradicted",
        description="The instruction, then a sentence that takes it back and asks for one word.",
        change=contradicted,
        when_falling=FOLLOWS,
        when_not=IGNORES,
        decides=False,
    ),
)
