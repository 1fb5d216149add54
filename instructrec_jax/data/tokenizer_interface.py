"""What every kind of tokenizer offers, and the conventions of T5 that they share.

Ids 0, 1 and 2 are padding, end of sequence and unknown; there is no beginning of sequence
(Raffel et al., 2020, arXiv:1910.10683).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from instructrec_jax.errors import DataError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
T5_SENTINELS = 100

_SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,8})>")


class Tokenizer(Protocol):
    """Text to token ids and back; text that merely contains "</s>" is plain text.

    Attributes:
        kind: "sentencepiece", "bytes" or "tokenizers".
        vocabulary_size: every id is below it.
        sentinel_ids: ids of <extra_id_0>, <extra_id_1>, ...
        model_bytes: with `kind` and the number of sentinels all that `tokenizer_from_bytes` needs.
        sha256: hash of kind, model and number of sentinels.
    """

    kind: str
    pad_id: int
    eos_id: int
    unk_id: int
    vocabulary_size: int
    sentinel_ids: tuple[int, ...]
    model_bytes: bytes
    sha256: str

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without eos. Raises DataError for a lone surrogate."""

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        """Token ids of each text, without eos. Raises DataError as `encode`.

        "<extra_id_0>" in a text is plain text, or with `parse_sentinels` the sentinel; what stands
        on either side of it is then encoded on its own, as transformers does.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; pad and eos have none, sentinels read <extra_id_N>."""

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads into `folder`."""

    def hugging_face_files(self) -> dict[str, bytes]:
        """Names and contents of the tokenizer's files in a folder that transformers loads."""


def utf8(text: str) -> bytes:
    """The text's bytes. Raises DataError for a lone surrogate, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text holds half of a surrogate pair at character {error.start} "
            f"({error.object[error.start]!r}): repair or remove it"
        ) from None


def sentinel_number(name: str) -> int | None:
    """N of "<extra_id_N>", with or without SentencePiece's space before it; otherwise None."""
    found = _SENTINEL.fullmatch(name.removeprefix("\u2581"))
    return int(found[1]) if found else None


def split_at_sentinels(text: str, sentinels: int) -> Iterator[str | int]:
    """The parts of a text: strings that are not empty, and N for each of the known sentinels."""
    start = 0
    for found in _SENTINEL.finditer(text):
        number = int(found[1])
        if number < sentinels:
            if found.start() > start:
                yield text[start : found.start()]
            yield number
            start = found.end()
    if start < len(text):
        yield text[start:]
