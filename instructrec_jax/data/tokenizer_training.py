"""Trains a SentencePiece model in T5's conventions that keeps every character.

decode(encode(text)) == text. It is a unigram model (Kudo, 2018, arXiv:1804.10959) without
normalisation or collapsing of spaces; newline, tab and carriage return are pieces of their own, and
what no piece covers is spelt in bytes. Training depends on the texts, their order, the sizes and
the seed alone, not on the number of cores.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import sentencepiece

from instructrec_jax.data.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    sentencepiece_tokenizer,
)
from instructrec_jax.data.tokenizer_interface import EOS_ID, PAD_ID, UNK_ID
from instructrec_jax.errors import ConfigError, DataError

_WHITESPACE_PIECES = ("\n", "\t", "\r")
# pad, eos, unk, the whitespace pieces and one piece for each byte.
_FIXED_PIECES = 3 + len(_WHITESPACE_PIECES) + 256
MINIMUM_PIECES = _FIXED_PIECES + 32
# Long texts are cut here, so that a sample of few texts is still a fair one.
_CHUNK_CHARACTERS = 2_000
# Training text: 5 million characters take 13 s on one core for 8,000 pieces.
_SAMPLE_CHARACTERS_PER_PIECE = 640
_SAMPLE_CHARACTERS = (5_000_000, 20_000_000)
# A character is a piece of its own when it makes up this share of the text.
_SMALLEST_CHARACTER_SHARE = 1e-6
# SentencePiece sums floats by thread: a fixed number of threads gives the same model on any
# machine.
_THREADS = 4


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocabulary_size: int,
    sentinels: int,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> SentencePieceTokenizer:
    """Train on a sample of `texts`; memory is bounded, texts are read once.

    A corpus too small for `vocabulary_size` gives the largest vocabulary it supports, and a line
    to `progress`.

    Raises:
        ConfigError: `vocabulary_size` leaves no room beside the bytes and sentinels.
        DataError: there is no text, or nothing but line breaks.
    """
    pieces = vocabulary_size - sentinels
    if pieces < MINIMUM_PIECES:
        raise ConfigError(
            f"tokenizer.vocabulary_size is {vocabulary_size}: with {sentinels} sentinels it must "
            f"be at least {MINIMUM_PIECES + sentinels}"
        )
    smallest, largest = _SAMPLE_CHARACTERS
    budget = min(max(_SAMPLE_CHARACTERS_PER_PIECE * pieces, smallest), largest)
    chunks = _sample(texts, characters=budget, seed=seed)
    chunks = _without_rare_characters(chunks, kinds=(pieces - _FIXED_PIECES) // 2)
    if not any(chunk.strip("\n") for chunk in chunks):
        raise DataError("no text to train a tokenizer on: every text is empty or blank")
    model_bytes = _train(chunks, pieces=pieces)
    tokenizer = sentencepiece_tokenizer(model_bytes, sentinels, origin="the trained model")
    if progress is not None and tokenizer.pieces < pieces:
        progress(
            f"the corpus supports {tokenizer.pieces:,} pieces instead of {pieces:,}: "
            f"the vocabulary is {tokenizer.vocabulary_size:,}"
        )
    return tokenizer


def _train(chunks: list[str], *, pieces: int) -> bytes:
    """The serialised model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(chunks),
        model_writer=model,
        model_type="unigram",
        vocab_size=pieces,
        hard_vocab_limit=False,
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        split_digits=True,
        user_defined_symbols=list(_WHITESPACE_PIECES),
        character_coverage=1.0,
        max_sentence_length=8 * _CHUNK_CHARACTERS,
        shuffle_input_sentence=False,
        num_threads=_THREADS,
        minloglevel=2,
    )
    return model.getvalue()


def _sample(texts: Iterable[str], *, characters: int, seed: int) -> list[str]:
    """About `characters` characters of chunks, drawn fairly by hash, in their first order.

    Twice as much is held at most: then the chunks with the largest hashes go, and later ones with
    such hashes are not taken up.
    """
    held: list[tuple[bytes, int, str]] = []
    size = 0
    limit = b"\xff" * 16
    for index, chunk in enumerate(_chunks(texts)):
        key = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=16).digest()
        if key >= limit:
            continue
        held.append((key, index, chunk))
        size += len(chunk)
        if size > 2 * characters:
            held, size = _smallest(held, characters)
            limit = held[-1][0]
    held, _ = _smallest(held, characters)
    return [chunk for _, _, chunk in sorted(held, key=lambda item: item[1])]


def _smallest(
    held: list[tuple[bytes, int, str]], characters: int
) -> tuple[list[tuple[bytes, int, str]], int]:
    """The chunks with the smallest hashes that reach `characters`, and their length."""
    held.sort()
    size = 0
    for count, (_, _, chunk) in enumerate(held, start=1):
        size += len(chunk)
        if size >= characters:
            return held[:count], size
    return held, size


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Texts cut into pieces of bounded length, at a newline or space where there is one."""
    for text in texts:
        start = 0
        while start < len(text):
            end = start + _CHUNK_CHARACTERS
            if end < len(text):
                cut = max(text.rfind("\n", start, end), text.rfind(" ", start, end))
                end = cut if cut > start else end
            yield text[start:end]
            start = end


def _without_rare_characters(chunks: list[str], *, kinds: int) -> list[str]:
    """Chunks with every character outside the most frequent `kinds` replaced by a newline.

    SentencePiece makes each character that it sees a piece; the rest is to be spelt in bytes. A
    newline is a border that no piece crosses. NUL and surrogates cannot be trained on at all.
    """
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(chunk)
    rarest = _SMALLEST_CHARACTER_SHARE * counts.total()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [
        character
        for character, count in ranked[:kinds]
        if count >= rarest
        and character not in "\0\r\n\t\u2581"
        and not "\ud800" <= character <= "\udfff"
    ]
    others = re.compile(f"[^{re.escape(''.join(kept))}]+" if kept else "(?s:.+)")
    return [others.sub("\n", chunk) for chunk in chunks]
