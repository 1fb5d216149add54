"""Instructions proposed for a task by a phrase grammar: no model, the same ones every time.

The grammar is data, grammar.toml: frames by task type and style. A task's traits and the names of
its fields fill the slots.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.near_duplicates import longest_common_subsequence
from instructrec_jax.instructions.synthesis.traits import TYPES, Traits, words

_FILE = Path(__file__).with_name("grammar.toml")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
# Field names that say no more than the type of the task does.
_GENERIC_FIELDS = frozenset(
    (
        "input", "inputs", "text", "source", "content", "body", "context", "document",
        "target", "targets", "output", "answer", "response", "label", "completion", "prompt",
        "x", "y", "q", "a",
    )
)  # fmt: skip
# Longer lists of choices are not written out in an instruction.
_MOST_OPTIONS, _MOST_OPTION_CHARACTERS = 12, 160
# Targets of fewer words have a form, not a length.
_LEAST_WORDS_FOR_LENGTH = 8
# ROUGE-L above which two phrasings are one, and from which a phrasing says a clause already.
_NEARLY_EQUAL, _SAID_ALREADY = 0.9, 0.4
# Wrong instructions that an example is told apart from.
_FEW = 4


@dataclass(frozen=True)
class Proposal:
    """A candidate instruction: its style is one of templates.STYLES, its id a hash of its text."""

    id: str
    style: str
    text: str


def propose(
    traits: Traits, *, input_field: str = "", target_field: str = "", limit: int = 200
) -> tuple[Proposal, ...]:
    """Instructions for a task of these traits, without near-equal ones; at most `limit`.

    Plain phrasings come before those that also say the form of the answer. Styles take turns, so
    that a small limit leaves some of each.

    Args:
        traits: of the task's examples.
        input_field: the name of the column that the input stood under; "" = unknown.
        target_field: that of the target.
        limit: candidates at most.
    """
    slots = _slots(traits, input_field=input_field, target_field=target_field)
    plain = list(dict.fromkeys(_plain(traits.task_type, slots)))
    taken: list[Proposal] = []
    for style, text in (*_in_turns(plain), *_in_turns(list(_formed(plain, traits, slots)))):
        if len(taken) == limit:
            break
        if all(rouge_l(text, proposal.text) <= _NEARLY_EQUAL for proposal in taken):
            taken.append(Proposal(f"{style}_{hashing.digest(text, size=4)}", style, text))
    return tuple(taken)


def wrong_instructions(task_type: str) -> tuple[str, ...]:
    """Instructions of every other type of task, for a task of this type to be told apart from."""
    found = []
    for other in TYPES:
        if other not in (task_type, "answer"):
            slots = _slots(Traits(other), input_field="", target_field="")
            found.append(next(_plain(other, slots))[1])
    return tuple(found)


def few_wrong_instructions(example: InstructionExample) -> tuple[str, ...]:
    """Four of them, by the example's hash; `example.task` is its type, or any task's name."""
    return tuple(
        sorted(
            wrong_instructions(example.task),
            key=lambda text: hashing.digest(text, example.instruction, example.input),
        )[:_FEW]
    )


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F1 in [0, 1] of words; a Chinese character is a word (Lin 2004)."""
    one, two = ([word.encode() for word in words(text)] for text in (first, second))
    if not one or not two:
        return float(first == second)
    return 2 * longest_common_subsequence(one, two) / (len(one) + len(two))


def _plain(task_type: str, slots: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """(style, text) of every frame of the type, then of those for any type."""
    for section in (task_type, "any"):
        for style, frames in _grammar()[section].items():
            for frame in frames:
                for text in _expanded(frame, slots):
                    yield style, text


def _formed(
    plain: Sequence[tuple[str, str]], traits: Traits, slots: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """(style, text) of phrasings followed by a sentence on the form of the answer."""
    for name in _forms(traits):
        for form_style, clause in _grammar()["clauses"][name].items():
            for form, (style, text) in itertools.product(_expanded(clause, slots), plain):
                if rouge_l(form, text) >= _SAID_ALREADY:
                    continue
                if style == "chinese" == form_style and text.endswith("。"):
                    yield style, text + form
                elif style in ("imperative", "question") and form_style != "chinese":
                    yield form_style, f"{text} {form}"


def _forms(traits: Traits) -> list[str]:
    """The clauses of the grammar that hold of the targets."""
    found = ["options"] if traits.options else []
    if traits.target_format and not traits.options:
        found.append(traits.target_format)
    if traits.target_prefix and "\n" not in traits.target_prefix:
        found.append("prefix")
    if traits.target_words >= _LEAST_WORDS_FOR_LENGTH:
        found.append("words")
    return [name for name in found if name in _grammar()["clauses"]]


def _slots(traits: Traits, *, input_field: str, target_field: str) -> dict[str, tuple[str, ...]]:
    """What each slot can be filled with; a slot that is not there is unknown."""
    nouns = _grammar()["nouns"][traits.task_type]
    given = _noun(input_field) or nouns["input"]
    wanted = _noun(target_field) or nouns["target"]
    slots = {
        "input": (f"this {given}", f"the {given} below"),
        "target": (f"the {wanted}",),
        "Target": (wanted[:1].upper() + wanted[1:],),
        "bare_input": (given,),
        "bare_target": (wanted,),
        "words": (str(traits.target_words),),
        "prefix": (traits.target_prefix.strip(),),
    }
    if traits.options and _can_be_written(traits.options):
        *first, last = sorted(traits.options)
        slots["options"] = (f"{', '.join(first)} or {last}",)
        slots["options_chinese"] = (f"{'、'.join(first)}或{last}",)
    for name, language in (("from", traits.input_language), ("to", traits.target_language)):
        if language:
            slots[name] = (language,)
            slots[f"{name}_chinese"] = (_grammar()["languages_in_chinese"][language],)
    return slots


def _can_be_written(options: tuple[str, ...]) -> bool:
    return (
        len(options) <= _MOST_OPTIONS
        and sum(map(len, options)) <= _MOST_OPTION_CHARACTERS
        and not any("\n" in option for option in options)
    )


def _noun(field: str) -> str:
    """A column's name as words, "" where it says nothing: "reviewTitle" → "review title"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-.]+", " ", field).strip().lower()
    return "" if spaced in _GENERIC_FIELDS else spaced


def _expanded(frame: str, slots: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Every text of a frame, none where it has a slot that is unknown."""
    names = list(dict.fromkeys(_SLOT.findall(frame)))
    if not all(name in slots for name in names):
        return
    parts = _CHOICE.split(frame)
    # The odd parts are choices; slots are filled last, so that their text is never read as frame.
    for chosen in itertools.product(*(part.split("|") for part in parts[1::2])):
        text = parts[0] + "".join(map(str.__add__, chosen, parts[2::2]))
        for values in itertools.product(*(slots[name] for name in names)):
            filling = dict(zip(names, values, strict=True))
            yield _SLOT.sub(lambda match, filling=filling: filling[match[1]], text)


def _in_turns(phrasings: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The phrasings, one of each style after another."""
    by_style: dict[str, list[tuple[str, str]]] = {}
    for style, text in phrasings:
        by_style.setdefault(style, []).append((style, text))
    for row in itertools.zip_longest(*by_style.values()):
        yield from (found for found in row if found is not None)


@cache
def _grammar() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
