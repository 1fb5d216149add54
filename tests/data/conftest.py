"""A small corpus, tokenizers trained on it, and token caches made of plain lists."""

import hashlib
import io

import numpy as np
import pytest
import sentencepiece
from hard_texts import HARD_TEXTS

from instructrec_jax.data.token_cache import TokenCache
from instructrec_jax.data.tokenizer_training import train_tokenizer

CORPUS = [
    "def add(first, second):\n    return first + second\n",
    "The quick brown fox jumps over the lazy dog.",
    "Translate this sentence to Chinese: 你好，世界。",
    "What does the function `add` return? It returns the sum {first} + {second}.\n\n\tNo more.",
    "Wie heißt Österreich auf Englisch? Austria.",
] * 20


@pytest.fixture(scope="session")
def corpus():
    return CORPUS


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(CORPUS, vocabulary_size=500, sentinels=10, seed=0)


def _train_as_published(texts, **settings):
    """A SentencePiece model in the conventions of T5's: nmt_nfkc, spaces collapsed."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.splitlines()]),
        model_writer=model,
        **{
            "hard_vocab_limit": False,
            "pad_id": 0,
            "eos_id": 1,
            "unk_id": 2,
            "bos_id": -1,
            "minloglevel": 2,
            **settings,
        },
    )
    return model.getvalue()


def _with_sentinel_pieces(model, count):
    """The model with user-defined pieces at its end, which is how mT5's has its sentinels."""
    for number in range(count - 1, -1, -1):
        name = f"\u2581<extra_id_{number}>".encode()
        # Name, a score of 0.0, the type; then all of it as one more piece.
        piece = b"\x0a" + bytes([len(name)]) + name + b"\x15\0\0\0\0" + b"\x18\x04"
        model += b"\x0a" + bytes([len(piece)]) + piece
    return model


# What no piece of `t5_model` covers.
UNKNOWN_TEXTS = ("Tamil and Bengali", "emoji", "emoji joined", "musical and ancient", "NUL")


@pytest.fixture(scope="session")
def t5_model():
    """As T5's: unk for what no piece covers."""
    texts = [text for name, text in HARD_TEXTS.items() if name not in UNKNOWN_TEXTS]
    return _train_as_published(CORPUS + texts * 2, vocab_size=800, character_coverage=1.0)


@pytest.fixture(scope="session")
def umt5_model():
    """As umT5's: bytes for what no piece covers."""
    return _train_as_published(CORPUS, vocab_size=500, byte_fallback=True)


@pytest.fixture(scope="session")
def mt5_model(umt5_model):
    """As mT5's: 100 sentinels inside."""
    return _with_sentinel_pieces(umt5_model, 100)


def _make_cache(examples, tasks=None):
    """A cache of (encoder ids, decoder ids) pairs; `tasks` names the task of each."""
    tasks = tasks or ["default"] * len(examples)
    names = tuple(dict.fromkeys(tasks))
    sides = []
    for side in (0, 1):
        rows = [list(example[side]) for example in examples]
        sides.append(np.array([token for row in rows for token in row], np.int32))
        sides.append(np.cumsum([0] + [len(row) for row in rows]))
    return TokenCache(
        *sides,
        task_ids=np.array([names.index(task) for task in tasks], np.int32),
        tasks=names,
        dropped={},
        truncated=0,
        sha256=hashlib.sha256(repr((examples, tasks)).encode()).hexdigest(),
    )


@pytest.fixture(scope="session")
def make_cache():
    return _make_cache


@pytest.fixture(scope="session")
def instruction_lengths():
    """(encoder, decoder) lengths of 2,000 examples: log-normal, no longer than 64 and 24."""
    generator = np.random.Generator(np.random.Philox(7))
    encoder = np.exp(generator.normal(2.3, 0.8, 2_000)).astype(int) + 1
    decoder = np.exp(generator.normal(1.0, 0.9, 2_000)).astype(int) + 1
    return np.minimum(encoder, 64), np.minimum(decoder, 24)


@pytest.fixture(scope="session")
def instruction_cache(instruction_lengths):
    """A cache of examples of these lengths, of three tasks, whose tokens tell them apart."""
    examples = [
        ([number % 97] * (encoder - 1) + [1], [number % 89] * (decoder - 1) + [1])
        for number, (encoder, decoder) in enumerate(zip(*instruction_lengths, strict=True))
    ]
    tasks = [("summarise", "translate", "classify")[number % 7 % 3] for number in range(2_000)]
    return _make_cache(examples, tasks)
