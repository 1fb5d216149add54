"""What a SentencePiece model file says that its library does not tell.

The file is a protocol buffer, sentencepiece_model.proto of SentencePiece: parts with a tag and a
length before each, 7 bits a byte. Its parts are the pieces, the trainer's settings and the
normaliser's.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

_PIECE_PART, _TRAINER_PART, _NORMALIZER_PART = 1, 2, 3
# Kinds of values: a number, 8 bytes, a length and bytes, 4 bytes.
_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
# Field `type` of a piece; of several values the last one counts.
_TYPE_UNUSED = bytes((3 << 3 | _NUMBER, 5))


@dataclass(frozen=True)
class Conventions:
    """How a model treats text.

    Attributes:
        is_unigram: rather than BPE, words or characters.
        byte_fallback: what no piece covers is spelt in byte pieces, rather than unk.
        character_map: the compiled normalisation; empty for none.
        adds_space: before the text.
        collapses_spaces: to one, and to none at the ends.
    """

    is_unigram: bool
    byte_fallback: bool
    character_map: bytes
    adds_space: bool
    collapses_spaces: bool


def conventions(model: bytes) -> Conventions:
    """The conventions of a model.

    Raises:
        ValueError: the model is damaged, or lacks the last part that every model has, the
            normaliser's. SentencePiece accepts a model that is cut between two pieces, and one of
            no bytes at all.
    """
    parts = {number: value for number, value in _fields(model) if number != _PIECE_PART}
    if _NORMALIZER_PART not in parts:
        raise ValueError("cut short")
    trainer = dict(_fields(_message(parts.get(_TRAINER_PART))))
    normalizer = dict(_fields(_message(parts.get(_NORMALIZER_PART))))
    # What is missing has its default.
    return Conventions(
        is_unigram=trainer.get(3, 1) == 1,
        byte_fallback=bool(trainer.get(35, 0)),
        character_map=_message(normalizer.get(2)),
        adds_space=bool(normalizer.get(3, 1)),
        collapses_spaces=bool(normalizer.get(4, 1)),
    )


def without_pieces(model: bytes, names: Collection[str]) -> bytes:
    """The model with some pieces that it keeps the ids of, but never finds in a text."""
    hidden = {name.encode() for name in names}
    changed = bytearray()
    for number, value in _fields(model):
        part = _message(value)
        if number == _PIECE_PART and dict(_fields(part)).get(1) in hidden:
            part += _TYPE_UNUSED
        changed += bytes((number << 3 | _BYTES,)) + _varint(len(part)) + part
    return bytes(changed)


def _message(value: int | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else b""


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field. Raises ValueError where the message is cut or damaged."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _NUMBER:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            length, position = _read_varint(message, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if position + length > len(message):
            raise ValueError("cut short")
        yield number, message[position : position + length]
        position += length


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise ValueError("cut short")


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
