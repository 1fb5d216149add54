"""SentencePiece models in T5's conventions.

Where the sentinels are differs among published models. Those of T5 and umT5 are no pieces of the
model: they follow it, counted down from the last id of the vocabulary (100 after 32,000 pieces, 300
after 256,000). mT5's model has them inside, as its last 100 of 250,100 pieces, named with
SentencePiece's space symbol before "<extra_id_0>" and counted down too; nothing follows it then.
"""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from instructrec_jax.data.sentencepiece_export import hugging_face_files
from instructrec_jax.data.sentencepiece_model import conventions, without_pieces
from instructrec_jax.data.tokenizer_files import MODEL_FILE, write_info
from instructrec_jax.data.tokenizer_interface import (
    EOS_ID,
    PAD_ID,
    UNK_ID,
    split_at_sentinels,
    utf8,
)
from instructrec_jax.errors import ConfigError

# SentencePiece writes a space as this character and would decode a real one to a space.
_SPACE_SYMBOL = "\u2581"
_SENTINEL_START = "<extra_id_"
_SPACE_SYMBOL_BYTES = tuple(f"<0x{byte:02X}>" for byte in _SPACE_SYMBOL.encode())


class SentencePieceTokenizer:
    """A SentencePiece model and its sentinels; see `Tokenizer` for what it offers.

    Attributes:
        pieces: of the model, its own sentinels among them.
    """

    kind = "sentencepiece"
    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, model_bytes: bytes, sentinels: int
    ) -> None:
        """Use `tokenizer_from_bytes` or `load_tokenizer`, which check the model first."""
        self._original = self._processor = processor
        self.pieces = int(processor.piece_size())
        self.model_bytes = model_bytes
        own = _own_sentinels(processor)
        if own:
            self.vocabulary_size = self.pieces
            self.sentinel_ids = own
            names = [processor.id_to_piece(token) for token in own]
            self._processor = sentencepiece.SentencePieceProcessor()
            self._processor.LoadFromSerializedProto(without_pieces(model_bytes, names))
        else:
            self.vocabulary_size = self.pieces + sentinels
            self.sentinel_ids = tuple(range(self.vocabulary_size - 1, self.pieces - 1, -1))
        self._has_own_sentinels = bool(own)
        self._sentinel_texts = {
            token: _piece_text(processor, token) if own else f"<extra_id_{number}>"
            for number, token in enumerate(self.sentinel_ids)
        }
        counted = b"%d\n" % len(self.sentinel_ids)
        self.sha256 = hashlib.sha256(counted + model_bytes).hexdigest()
        self._unknown_text = processor.decode([UNK_ID])
        newline_id = processor.piece_to_id("\n")
        symbol_ids = [processor.piece_to_id(piece) for piece in _SPACE_SYMBOL_BYTES]
        # A model that is trained here: every text is kept.
        self._keeps_text = newline_id != UNK_ID and all(map(processor.is_byte, symbol_ids))
        self._space_symbol_ids = symbol_ids

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without eos. Raises DataError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        """Token ids of each text, without eos; on all cores. Raises DataError as `encode`.

        With `parse_sentinels`, "<extra_id_N>" is a sentinel. A model that has the sentinels inside
        finds them itself: at the start of a word, that is.
        """
        # Bytes go in, because SentencePiece fails on surrogates with a message that helps nobody.
        encoded = [utf8(text) for text in texts]
        if parse_sentinels and self._has_own_sentinels:
            return self._original.encode(encoded)
        ids: list[list[int]] = self._processor.encode(encoded)
        for index, text in enumerate(texts):
            if parse_sentinels and _SENTINEL_START in text:
                ids[index] = self._encode_with_sentinels(text)
            elif self._keeps_text and _SPACE_SYMBOL in text:
                ids[index] = self._encode_around_space_symbols(text)
        return ids

    def _encode_with_sentinels(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in split_at_sentinels(text, len(self.sentinel_ids)):
            ids += self.encode(part) if isinstance(part, str) else [self.sentinel_ids[part]]
        return ids

    def _encode_around_space_symbols(self, text: str) -> list[int]:
        """Ids of a text that holds U+2581, which is spelt in byte pieces."""
        # No piece spans a newline, so one before each part separates it from what stands before
        # without SentencePiece's leading space.
        before = len(self._processor.encode("\n"))
        first, *rest = text.split(_SPACE_SYMBOL)
        ids = self._processor.encode(first) if first else self._processor.encode("\n")[:-1]
        for part in rest:
            ids += self._space_symbol_ids + self._processor.encode("\n" + part)[before:]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; pad and eos have none, sentinels read <extra_id_N>.

        An id outside the vocabulary (a model's embedding is padded beyond it) reads like unk.
        """
        text = ""
        run: list[int] = []
        for token in map(int, ids):
            if token in self._sentinel_texts:
                text += self._decode_run(run, after_sentinel=bool(text))
                text += (
                    self._sentinel_texts[token] if text else self._sentinel_texts[token].lstrip()
                )
                run = []
            elif token not in (PAD_ID, EOS_ID):
                run.append(token if 0 <= token < self.pieces else UNK_ID)
        return text + self._decode_run(run, after_sentinel=bool(text))

    def _decode_run(self, run: list[int], *, after_sentinel: bool) -> str:
        """Text of ids that are all pieces.

        SentencePiece cuts the space that it has put before a text. After a sentinel a model that
        collapses spaces keeps it, because there it may have been one of the text.
        """
        if run and after_sentinel and not self._keeps_text:
            return self._processor.decode([UNK_ID, *run])[len(self._unknown_text) :]
        return self._processor.decode(run)

    def save(self, folder: Path) -> None:
        """Write the model and a small description of it into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model_bytes)
        write_info(folder, self)

    def hugging_face_files(self) -> dict[str, bytes]:
        """Names and contents of the tokenizer's files in a folder that transformers loads."""
        return hugging_face_files(self._original, self.model_bytes, sentinel_ids=self.sentinel_ids)


def sentencepiece_tokenizer(
    model_bytes: bytes, sentinels: int, *, origin: str
) -> SentencePieceTokenizer:
    """A tokenizer from a serialised model.

    Raises:
        ConfigError: naming `origin`, if the model is empty, damaged or not in T5's conventions.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        conventions(model_bytes)
        processor.LoadFromSerializedProto(model_bytes)
        # Fails for a piece that is no UTF-8.
        processor.id_to_piece(list(range(processor.piece_size())))
    except (RuntimeError, ValueError):
        size = f"{len(model_bytes)} bytes"
        raise ConfigError(
            f"{origin} is not a SentencePiece model ({size}; empty, cut short or damaged): "
            "copy it again or train a new one"
        ) from None
    found = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if found != (PAD_ID, EOS_ID, UNK_ID) or processor.piece_size() <= UNK_ID:
        raise ConfigError(
            f"{origin} has pad, eos, unk = {found}, T5's conventions are (0, 1, 2): "
            "use a T5-family tokenizer or train one"
        )
    return SentencePieceTokenizer(processor, model_bytes, sentinels)


def _own_sentinels(processor: sentencepiece.SentencePieceProcessor) -> tuple[int, ...]:
    """Ids of the pieces that are <extra_id_0>, <extra_id_1>, ..., as far as there are any."""
    ids: list[int] = []
    for number in itertools.count():
        name = f"<extra_id_{number}>"
        found = {processor.piece_to_id(_SPACE_SYMBOL + name), processor.piece_to_id(name)}
        found.discard(UNK_ID)
        if not found:
            break
        ids.append(min(found))
    return tuple(ids)


def _piece_text(processor: sentencepiece.SentencePieceProcessor, token: int) -> str:
    return str(processor.id_to_piece(token)).replace(_SPACE_SYMBOL, " ")
