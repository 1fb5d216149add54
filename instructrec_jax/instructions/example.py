"""The instruction example: one question, one answer, and where both come from."""

from dataclasses import dataclass
from typing import Any

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class Provenance:
    """The raw document that an example was made from.

    `span` is the range of lines (first and last, from 1) or items of the document inside `uri`,
    `sha256` the hash of the document's text, `generator` the function that made the example.
    """

    corpus: str
    uri: str
    span: tuple[int, int] | None
    sha256: str
    licence: str
    generator: str
    seed: int

    def to_record(self) -> dict[str, Any]:
        """The provenance as a JSON object with a fixed order of keys."""
        return {
            "corpus": self.corpus,
            "uri": self.uri,
            "span": list(self.span) if self.span is not None else None,
            "sha256": self.sha256,
            "licence": self.licence,
            "generator": self.generator,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Demonstration:
    """A solved question that is shown in front of another one.

    The fields are those of an example; `material` again where the phrasing carries it inside.
    """

    instruction: str
    input: str
    target: str
    material: str = ""

    def to_record(self) -> dict[str, str]:
        """The demonstration as a JSON object; `material` left out where it is empty."""
        record = {"instruction": self.instruction, "input": self.input, "target": self.target}
        return {**record, "material": self.material} if self.material else record


@dataclass(frozen=True)
class InstructionExample:
    """One line of an instruction dataset; the fields are explained in the dataset format.

    `references` are all acceptable targets (empty: `target` alone), `options` the closed choices,
    `holdout` the unseen thing that a test example probes, `target_source` how the target came
    about (`intrinsic`, `metadata`, `mined`, `parallel`, `executed`, `model`). `material` is what
    the question is about where the phrasing carries it inside the instruction and `input` is
    therefore empty: the model never sees it apart, floors and audits do. `demonstrations` are
    solved questions to be shown first, as many as there is room for (few_shot.py).
    """

    id: str
    task: str
    instruction: str
    input: str
    target: str
    references: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    template: str = ""
    split: str = ""
    holdout: str = ""
    target_source: str = ""
    provenance: Provenance | None = None
    material: str = ""
    demonstrations: tuple[Demonstration, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """The example as a JSON object with a fixed order of keys; empty optional fields left out.

        `id`, `task`, `instruction`, `input` and `target` are always there.
        """
        record: dict[str, Any] = {
            "id": self.id,
            "task": self.task,
            "instruction": self.instruction,
            "input": self.input,
            "target": self.target,
            "material": self.material,
            "demonstrations": [shown.to_record() for shown in self.demonstrations],
            "references": list(self.references),
            "options": list(self.options),
            "template": self.template,
            "split": self.split,
            "holdout": self.holdout,
            "target_source": self.target_source,
            "provenance": self.provenance.to_record() if self.provenance is not None else None,
        }
        always = ("id", "task", "instruction", "input", "target")
        return {key: value for key, value in record.items() if value or key in always}


def encoder_text(instruction: str, input: str) -> str:
    """A question's text: the instruction, and where there is an input a blank line and the input.

    Training, decoding and evaluation all take it from here, with demonstrations by few_shot.py.
    """
    if not input:
        return instruction
    if not instruction:
        return input
    return f"{instruction}\n\n{input}"
