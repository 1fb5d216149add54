"""The encoder's text of a question with solved ones in front of it, within a budget of tokens.

Training, decoding and evaluation all take it from here, so that the same record gives the same
tokens everywhere. Neither the question nor a demonstration is ever cut in the middle.
"""

from collections.abc import Callable, Sequence

from instructrec_jax.instructions.example import Demonstration, InstructionExample, encoder_text

_ANSWER = "Answer:"
_FIELDS = ("instruction", "input", "target", "material")


def few_shot_text(demonstrations: Sequence[Demonstration], instruction: str, input: str) -> str:
    """The solved questions, each with its answer, and the question; blank lines between them."""
    question = encoder_text(instruction, input)
    return "\n\n".join([*map(_solved, demonstrations), question])


def fitting(
    demonstrations: Sequence[Demonstration],
    instruction: str,
    input: str,
    *,
    length: Callable[[str], int],
    limit: int,
) -> tuple[Demonstration, ...]:
    """The demonstrations with which the whole text fits, in their order.

    Each one that does not fit beside those before it is passed over for the next.

    Args:
        demonstrations: in the order in which they are preferred.
        instruction, input: of the question; it may be longer than the limit by itself, and then
            none fits.
        length: of a text in tokens, eos included; see `token_length`.
        limit: greatest length of the whole text.
    """
    if not demonstrations or length(few_shot_text(demonstrations, instruction, input)) <= limit:
        return tuple(demonstrations)
    kept: list[Demonstration] = []
    for shown in demonstrations:
        if length(few_shot_text([*kept, shown], instruction, input)) <= limit:
            kept.append(shown)
    return tuple(kept)


def fitted_text(
    demonstrations: Sequence[Demonstration],
    instruction: str,
    input: str,
    *,
    length: Callable[[str], int],
    limit: int,
) -> tuple[str, int]:
    """The encoder's text with what is `fitting`, and how many demonstrations are left out of it."""
    kept = fitting(demonstrations, instruction, input, length=length, limit=limit)
    return few_shot_text(kept, instruction, input), len(demonstrations) - len(kept)


def fitted_texts(
    examples: Sequence[InstructionExample], *, length: Callable[[str], int], limit: int
) -> list[tuple[str, int]]:
    """`fitted_text` of each example."""
    return [
        fitted_text(each.demonstrations, each.instruction, each.input, length=length, limit=limit)
        for each in examples
    ]


def token_length(encode_batch: Callable[..., list[list[int]]]) -> Callable[[str], int]:
    """The length of a text in tokens, eos included, by a tokenizer's `encode_batch`."""
    return lambda text: len(encode_batch([text])[0]) + 1


def read_demonstrations(value: object) -> tuple[Demonstration, ...]:
    """The field `demonstrations` of a JSON record; null is none.

    Raises:
        ValueError: no list of objects with `instruction`, optionally `input`, and `target`, all
            text, of which the target and the question are not empty.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("demonstrations is not a list of objects")
    return tuple(_read(entry, f"demonstrations[{place}]") for place, entry in enumerate(value))


def _read(entry: object, place: str) -> Demonstration:
    if not isinstance(entry, dict):
        raise ValueError(f"{place} is not an object with instruction, input and target")
    texts = []
    for name in _FIELDS:
        text = entry.get(name)
        if text is None and name in ("input", "material"):
            text = ""
        if not isinstance(text, str):
            missing = "no text" if name in entry else "missing"
            raise ValueError(f"{place}: {name} is {missing}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            at = f"character {error.start + 1}"
            raise ValueError(f"{place}: {name} holds half of a surrogate pair at {at}") from None
        texts.append(text)
    found = Demonstration(*texts)
    if not found.target.strip():
        raise ValueError(f"{place}: target is empty")
    if not encoder_text(found.instruction, found.input).strip():
        raise ValueError(f"{place}: instruction is empty and there is no input")
    return found


def _solved(shown: Demonstration) -> str:
    separator = "\n" if "\n" in shown.target else " "
    return f"{encoder_text(shown.instruction, shown.input)}\n{_ANSWER}{separator}{shown.target}"
