"""Tasks that a model worded: see instructions/synthesis/."""

from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft


def made(document: Document, context: Context, *, direction: str) -> Iterator[Draft]:
    """What a synthesiser made of the document in one direction and curation kept."""
    for each in document.content["made"]:
        if each["direction"] == direction:
            fields = {"input": each["input"], "instruction": each["instruction"]}
            yield Draft(fields=fields, target=each["target"])
