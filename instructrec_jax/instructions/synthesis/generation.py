"""Documents to instructions by a synthesiser, a judge between them and the dataset.

Two ways: the document is the answer to an instruction that the synthesiser writes ("instruction"),
or the synthesiser writes an instruction about it and the answer ("pair"). A pair must come round:
the judge's own answer agrees with it. Everything must pass curation. What is refused has a reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.synthesis.backward import (
    instruction_prompt,
    pair_prompt,
    parse_pair,
)
from instructrec_jax.instructions.synthesis.curation import (
    CurationSettings,
    Measures,
    measure,
    verdicts,
)
from instructrec_jax.instructions.synthesis.grammar import few_wrong_instructions, rouge_l
from instructrec_jax.instructions.synthesis.likelihood import Judge

# The documents' texts by kind; of a kind that does not stand here nothing is made.
_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], Iterable[str]]] = {
    "prose": lambda content: (content["passage"],),
    "python_definition": lambda content: (content["code"],),
    "record": lambda content: (content.get("text", ""),),
    "package": lambda content: (content["description"],),
    "locale": lambda content: content["texts"].values(),
    "parallel": lambda content: content["texts"].values(),
}
# The types of task that are asked for, by kind: about a text, and of a text that is the answer.
_PROSE = ("question", "extraction", "summary", "classification", "yes_or_no", "answer")
_PAIR_TYPES = {
    "python_definition": ("code_description", "extraction", "classification"),
    "locale": ("date", "answer", "classification"),
    "parallel": ("answer", "translation", "classification"),
}
_ANSWER_TYPES = {"python_definition": "code"}
# Instructions that speak of something beside them.
_MATERIAL = re.compile(
    r"\b(?:this|these|below|following|given|above)\b|下面|下列|以下|上面", re.IGNORECASE
)
# ROUGE-L of an instruction and its text above which it says nothing of its own.
_MOST_REPEATED = 0.5
# Documents in work at once.
_PORTION = 256


@dataclass(frozen=True)
class SynthesisSettings:
    """How much is asked for, and what of it is kept.

    Of each document `types_per_document` types of pairs are asked for, and, with `instructions`,
    the instruction that it answers. `documents` are taken of each corpus at most, 0 = all; texts
    longer than `max_characters` are left alone. `min_agreement` is the least ROUGE-L between a
    pair's answer and the judge's own, in [0, 1].
    """

    seed: int = 0
    documents: int = 1_000
    types_per_document: int = 2
    instructions: bool = True
    max_characters: int = 1_500
    min_agreement: float = 0.7
    curation: CurationSettings = field(default_factory=CurationSettings)

    def problems(self) -> list[str]:
        """Everything that is wrong with the settings, one line each."""
        found = [
            f"{key}: {getattr(self, key)} is below {least}"
            for key, least in (("documents", 0), ("types_per_document", 0), ("max_characters", 1))
            if getattr(self, key) < least
        ]
        if not 0 <= self.min_agreement <= 1:
            found.append(f"min_agreement: {self.min_agreement} is not in [0, 1]")
        return found + self.curation.problems()


@dataclass(frozen=True)
class Request:
    """What the synthesiser is asked: about which text of a document, in which direction."""

    document: Document
    text: str
    direction: str
    task_type: str

    @property
    def prompt(self) -> str:
        """The encoder's text."""
        if self.direction == "pair":
            return encoder_text(*pair_prompt(self.task_type, self.text))
        return encoder_text(*instruction_prompt(self.task_type, "", self.text))


@dataclass(frozen=True)
class Synthesised:
    """What came of a request: an example, or the reason why there is none."""

    request: Request
    instruction: str = ""
    target: str = ""
    reason: str = ""
    measures: Measures | None = None
    agreement: float | None = None

    @property
    def input(self) -> str:
        """The material of the question; a document that is the answer has none."""
        return self.request.text if self.request.direction == "pair" else ""

    def to_record(self) -> dict[str, Any]:
        """All but the document, as a JSON object."""
        return {
            "direction": self.request.direction,
            "task_type": self.request.task_type,
            "instruction": self.instruction,
            "input": self.input,
            "target": self.target,
            "reason": self.reason,
            "agreement": self.agreement,
            **(asdict(self.measures) if self.measures else {}),
        }


def requests_of(document: Document, settings: SynthesisSettings) -> Iterator[Request]:
    """What is asked about a document: a pure function of the seed and the document."""
    for text in _TEXTS.get(document.kind, lambda content: ())(document.content):
        if not text.strip() or len(text) > settings.max_characters:
            continue
        types = _PAIR_TYPES.get(document.kind, _PROSE)
        shuffled = sorted(
            types,
            key=lambda name, text=text: hashing.digest(
                settings.seed, "type", document.identity, text, name
            ),
        )
        for task_type in shuffled[: settings.types_per_document]:
            yield Request(document, text, "pair", task_type)
        if settings.instructions:
            answered = _ANSWER_TYPES.get(document.kind, "expansion")
            yield Request(document, text, "instruction", answered)


def synthesise(
    documents: Iterable[Document],
    *,
    synthesiser: Judge,
    judge: Judge,
    settings: SynthesisSettings,
    progress: Callable[[int], None] | None = None,
) -> list[Synthesised]:
    """What came of every request of the documents, in order; kept ones have the reason "".

    Raises:
        ValueError: settings that cannot be met.
    """
    if problems := settings.problems():
        raise ValueError("; ".join(problems))
    found: list[Synthesised] = []
    portion: list[Request] = []
    for count, document in enumerate(documents, start=1):
        portion += requests_of(document, settings)
        if count % _PORTION == 0:
            found += _measured(_written(portion, synthesiser), judge, settings)
            portion = []
            if progress is not None:
                progress(count)
    found += _measured(_written(portion, synthesiser), judge, settings)
    return _curated(found, settings.curation)


def counted(found: Iterable[Synthesised]) -> Counter[str]:
    """How many have each reason; those that are kept under "kept"."""
    return Counter(each.reason or "kept" for each in found)


def _written(requests: list[Request], synthesiser: Judge) -> list[Synthesised]:
    """The synthesiser's texts, those that are no instruction or pair with a reason."""
    made = []
    asked: set[tuple[str, str, str]] = set()
    outputs = synthesiser.write([request.prompt for request in requests])
    for request, output in zip(requests, outputs, strict=True):
        if request.direction == "pair":
            instruction, target = parse_pair(output.text)
        else:
            instruction, target = output.text, request.text
        key = (request.document.identity, request.text, instruction)
        if not output.ended:
            reason = "cut_off"
        elif request.direction == "pair" and not target:
            reason = "no_pair"
        elif not instruction:
            reason = "no_instruction"
        elif request.direction == "instruction" and _MATERIAL.search(instruction):
            # There is nothing but the instruction.
            reason = "material_is_missing"
        elif rouge_l(instruction, request.text) > _MOST_REPEATED or instruction in request.text:
            reason = "instruction_repeats_text"
        elif key in asked:
            reason = "asked_twice"
        else:
            reason = ""
            asked.add(key)
        made.append(Synthesised(request, instruction, target, reason))
    return made


def _measured(
    made: list[Synthesised], judge: Judge, settings: SynthesisSettings
) -> list[Synthesised]:
    """What is left with its measures; pairs that do not come round with that reason."""
    left = {str(place): each for place, each in enumerate(made) if not each.reason}
    measured = measure(
        [_example(name, each) for name, each in left.items()],
        judge,
        wrong=few_wrong_instructions,
    )
    pairs = {name: each for name, each in left.items() if each.request.direction == "pair"}
    answers = judge.write([encoder_text(each.instruction, each.input) for each in pairs.values()])
    agreements = {
        name: rouge_l(answer.text, each.target)
        for (name, each), answer in zip(pairs.items(), answers, strict=True)
    }
    for name, each in left.items():
        agreement = agreements.get(name)
        apart = agreement is not None and agreement < settings.min_agreement
        made[int(name)] = replace(
            each,
            reason="round_trip" if apart else "",
            measures=measured[name],
            agreement=agreement,
        )
    return made


def _curated(found: list[Synthesised], settings: CurationSettings) -> list[Synthesised]:
    """The verdicts of curation on what is left; outliers among all of one direction and type."""
    left = {str(place): each for place, each in enumerate(found) if not each.reason}
    measures = {name: each.measures for name, each in left.items() if each.measures is not None}
    tasks = {n: f"{each.request.direction}/{each.request.task_type}" for n, each in left.items()}
    judged = verdicts(measures, tasks, settings)
    return [
        replace(each, reason=judged[str(place)].reason) if str(place) in judged else each
        for place, each in enumerate(found)
    ]


def _example(name: str, each: Synthesised) -> InstructionExample:
    return InstructionExample(
        id=name,
        task=each.request.task_type,
        instruction=each.instruction,
        input=each.input,
        target=each.target,
    )
