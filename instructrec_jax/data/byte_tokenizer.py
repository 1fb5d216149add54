"""Text as the bytes of its UTF-8, in ByT5's conventions.

Byte b is id b + 3, after padding, end of sequence and unknown (Xue et al., 2022,
arXiv:2105.13626). The sentinels follow the bytes, counted up: <extra_id_0> is 259, as in
transformers. Pretraining of ByT5 had none of its own: it took the last byte ids, counted down from
258, which no UTF-8 text uses. Whoever prompts a pretrained ByT5 for spans gives these as ids.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.data.tokenizer_files import json_bytes, write_info
from instructrec_jax.data.tokenizer_interface import (
    EOS_ID,
    PAD_ID,
    UNK_ID,
    split_at_sentinels,
    utf8,
)

BYT5_SENTINELS = 125
_OFFSET = 3
_END_OF_BYTES = _OFFSET + 256


class ByteTokenizer:
    """The tokenizer of ByT5; see `Tokenizer` for what it offers.

    decode(encode(text)) == text for every text. Bytes that are no UTF-8 have no text, as in
    transformers.
    """

    kind = "bytes"
    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID
    model_bytes = b""

    def __init__(self, sentinels: int) -> None:
        """Use `byte_tokenizer`, `tokenizer_from_bytes` or `load_tokenizer`."""
        self.vocabulary_size = _END_OF_BYTES + sentinels
        self.sentinel_ids = tuple(range(_END_OF_BYTES, self.vocabulary_size))
        self.sha256 = hashlib.sha256(b"bytes %d\n" % sentinels).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without eos. Raises DataError for a lone surrogate."""
        return [byte + _OFFSET for byte in utf8(text)]

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        """Token ids of each text; with `parse_sentinels`, "<extra_id_N>" is a sentinel."""
        if not parse_sentinels:
            return [self.encode(text) for text in texts]
        return [self._encode_with_sentinels(text) for text in texts]

    def _encode_with_sentinels(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in split_at_sentinels(text, len(self.sentinel_ids)):
            ids += self.encode(part) if isinstance(part, str) else [self.sentinel_ids[part]]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; pad and eos have none, sentinels read <extra_id_N>.

        Unk, and an id outside the vocabulary, read U+FFFD.
        """
        text = bytearray()
        for token in map(int, ids):
            if _OFFSET <= token < _END_OF_BYTES:
                text.append(token - _OFFSET)
            elif _END_OF_BYTES <= token < self.vocabulary_size:
                text += b"<extra_id_%d>" % (token - _END_OF_BYTES)
            elif token not in (PAD_ID, EOS_ID):
                text += "\ufffd".encode()
        return text.decode(errors="ignore")

    def save(self, folder: Path) -> None:
        """Write a small description into `folder`."""
        write_info(folder, self)

    def hugging_face_files(self) -> dict[str, bytes]:
        """Names and contents of the files that make transformers' ByT5Tokenizer."""
        fields: dict[str, Any] = {
            "tokenizer_class": "ByT5Tokenizer",
            "extra_ids": len(self.sentinel_ids),
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        }
        return {"tokenizer_config.json": json_bytes(fields)}


def byte_tokenizer(sentinels: int = BYT5_SENTINELS) -> ByteTokenizer:
    """ByT5's tokenizer; the pretrained models have 125 sentinels, which makes 384 ids."""
    return ByteTokenizer(sentinels)
