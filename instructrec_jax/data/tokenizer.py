"""Text to token ids and back: SentencePiece in T5's conventions.

Ids 0, 1 and 2 are padding, end of sequence and unknown; there is no beginning of sequence. T5's
sentinels <extra_id_0>, <extra_id_1>, ... are not pieces of the SentencePiece model: they follow it,
counted down from the last id of the vocabulary (Raffel et al., 2020, arXiv:1910.10683). Text that
merely contains "</s>" or "<extra_id_0>" is plain text.

A model trained here keeps every character: decode(encode(text)) == text. It is a unigram model
(Kudo, 2018, arXiv:1804.10959) without normalisation or collapsing of spaces; newline, tab and
carriage return are pieces of their own, and what no piece covers is spelt in bytes. Training
depends on the texts, their order, the sizes and the seed alone, not on the number of cores.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from instructrec_jax.errors import ConfigError, DataError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
T5_SENTINELS = 100
MODEL_FILE = "spiece.model"
INFO_FILE = "tokenizer_info.json"
FORMAT_VERSION = 1

# SentencePiece writes a space as this character and would decode a real one to a space.
_SPACE_SYMBOL = "\u2581"
# Field 3 of SentencePiece's ModelProto, a message.
_NORMALIZER_TAG = 3 << 3 | 2
_SPACE_SYMBOL_BYTES = tuple(f"<0x{byte:02X}>" for byte in _SPACE_SYMBOL.encode())


# What follows concerns training.
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


class Tokenizer:
    """A SentencePiece model with sentinels after its last piece.

    Attributes:
        vocabulary_size: pieces and sentinels together; every id is below it.
        sentinel_ids: ids of <extra_id_0>, <extra_id_1>, ..., descending from the last id.
        model_bytes: the serialised SentencePiece model.
        sha256: hash of the model and of the number of sentinels.
    """

    kind = "sentencepiece"
    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, sentinels: int) -> None:
        """Use `tokenizer_from_bytes` or `load_tokenizer`, which check the model first."""
        self._processor = processor
        self.pieces = int(processor.piece_size())
        self.vocabulary_size = self.pieces + sentinels
        self.sentinel_ids = tuple(range(self.vocabulary_size - 1, self.pieces - 1, -1))
        self.model_bytes: bytes = processor.serialized_model_proto()
        self.sha256 = hashlib.sha256(b"%d\n" % sentinels + self.model_bytes).hexdigest()
        self._unknown_text = processor.decode([UNK_ID])
        self._newline_id = processor.piece_to_id("\n")
        symbol_ids = [processor.piece_to_id(piece) for piece in _SPACE_SYMBOL_BYTES]
        keeps_text = self._newline_id != UNK_ID and all(map(processor.is_byte, symbol_ids))
        self._space_symbol_ids = symbol_ids if keeps_text else None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without eos. Raises DataError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without eos; on all cores. Raises DataError as `encode`."""
        try:
            # Bytes go in, because SentencePiece fails on surrogates with a message that helps
            # nobody.
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError as error:
            raise DataError(
                f"text holds half of a surrogate pair at character {error.start} "
                f"({error.object[error.start]!r}): repair or remove it"
            ) from None
        ids = self._processor.encode(encoded)
        if self._space_symbol_ids is not None:
            for index, text in enumerate(texts):
                if _SPACE_SYMBOL in text:
                    ids[index] = self._encode_around_space_symbols(text)
        return ids

    def _encode_around_space_symbols(self, text: str) -> list[int]:
        """Ids of a text that holds U+2581, which is spelt in byte pieces."""
        assert self._space_symbol_ids is not None
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
        for token in ids:
            token = int(token)
            if self.pieces <= token < self.vocabulary_size:
                text += self._decode_run(run, leading=not text)
                text += f"<extra_id_{self.vocabulary_size - 1 - token}>"
                run = []
            elif token not in (PAD_ID, EOS_ID):
                run.append(token if 0 <= token < self.pieces else UNK_ID)
        return text + self._decode_run(run, leading=not text)

    def _decode_run(self, run: list[int], *, leading: bool) -> str:
        """Text of ids that are all pieces; only at the start of a text is its first space cut."""
        if leading or not run:
            return self._processor.decode(run)
        return self._processor.decode([UNK_ID, *run])[len(self._unknown_text) :]

    def save(self, folder: Path) -> None:
        """Write the model and a small description of it into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model_bytes)
        info = {
            "format_version": FORMAT_VERSION,
            "sha256": self.sha256,
            "vocabulary_size": self.vocabulary_size,
            "pieces": self.pieces,
            "sentinels": len(self.sentinel_ids),
        }
        (folder / INFO_FILE).write_text(json.dumps(info, indent=2) + "\n")


def tokenizer_from_bytes(
    model_bytes: bytes,
    sentinels: int = T5_SENTINELS,
    *,
    kind: str = "sentencepiece",
    origin: str = "the model",
) -> Tokenizer:
    """A tokenizer from its kind, `model_bytes` and number of sentinels.

    Raises:
        ConfigError: naming `origin`, if the model is empty, damaged or not in T5's conventions.
    """
    if kind != "sentencepiece":
        raise ConfigError(f"{origin} is a tokenizer of the unknown kind {kind!r}")
    if sentinels < 0:
        raise ConfigError(f"tokenizer.sentinels is {sentinels}: it must be 0 or more")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not _is_complete(model_bytes):
            raise RuntimeError("cut short")
        processor.LoadFromSerializedProto(model_bytes)
    except RuntimeError:
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
    return Tokenizer(processor, sentinels)


def _is_complete(model_bytes: bytes) -> bool:
    """Whether the last part of a model, the description of its normaliser, is there.

    SentencePiece accepts a model that is cut between two pieces, and one of no bytes at all. The
    model is a protocol buffer: a tag and a length before each part, 7 bits a byte.
    """
    numbers: list[int] = []
    position = value = shift = 0
    while position < len(model_bytes) and shift < 64:
        byte = model_bytes[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
        if len(numbers) == 2:
            tag, length = numbers
            position += length
            if tag == _NORMALIZER_TAG:
                return position <= len(model_bytes)
            numbers = []
    return False


def load_tokenizer(path: Path, *, sentinels: int | None = None) -> Tokenizer:
    """Load a tokenizer from a folder that holds a model, or from the model file.

    `sentinels` None means: what the description beside the model says, otherwise T5's 100.

    Raises:
        ConfigError: naming the path, if it is missing, empty, damaged or of another kind.
    """
    path = Path(path)
    model_path = path / MODEL_FILE if path.is_dir() else path
    try:
        model_bytes = model_path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"no tokenizer at {model_path} ({error.strerror}): "
            f"give a SentencePiece model file, or a folder with {MODEL_FILE}"
        ) from None
    info_path = model_path.parent / INFO_FILE
    described = _read_info(info_path) if model_path.name == MODEL_FILE else None
    described_sentinels, described_sha256 = described or (T5_SENTINELS, None)
    origin = str(model_path)
    tokenizer = tokenizer_from_bytes(model_bytes, described_sentinels, origin=origin)
    if described_sha256 not in (None, tokenizer.sha256):
        raise ConfigError(
            f"{model_path} is not the model that {info_path} describes (their hashes differ): "
            "copy both again, or delete the description"
        )
    if sentinels not in (None, described_sentinels):
        tokenizer = tokenizer_from_bytes(model_bytes, sentinels, origin=origin)
    return tokenizer


def _read_info(path: Path) -> tuple[int, str] | None:
    """Number of sentinels and hash in a description file, None where there is none."""
    if not path.exists():
        return None
    try:
        info = json.loads(path.read_text())
        return int(info["sentinels"]), str(info["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a tokenizer description ({error}): delete it or save again"
        ) from None


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocabulary_size: int,
    sentinels: int,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Tokenizer:
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
    tokenizer = tokenizer_from_bytes(model_bytes, sentinels, origin="the trained model")
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
