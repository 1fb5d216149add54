"""A small fixed model whose tokens are ASCII characters, for the tests of decoding."""

from collections.abc import Sequence

import numpy as np

from instructrec_jax.model.config import T5Config

CONFIG = T5Config(
    vocabulary_size=128,
    d_model=32,
    head_size=8,
    num_heads=4,
    d_ff=32,
    num_encoder_layers=1,
    num_decoder_layers=2,
    activation_dtype="float32",
)


class CharacterTokenizer:
    """One token a character; every id below `vocabulary_size` has a text."""

    def __init__(self, *, eos_id: int = 1, vocabulary_size: int = 128) -> None:
        self.eos_id = eos_id
        self.vocabulary_size = vocabulary_size

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        if parse_sentinels:
            texts = [text.replace("<extra_id_0>", chr(127)) for text in texts]
        return [[ord(character) for character in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token != self.eos_id)


def random_texts(count: int, *, longest: int, seed: int = 0) -> list[str]:
    """Printable texts of 0 to `longest` characters."""
    random = np.random.RandomState(seed)
    lengths = random.randint(0, longest + 1, count)
    return ["".join(map(chr, random.randint(33, 127, length))) for length in lengths]
