"""Texts to a few shapes of padded batches, in a way that no example can tell which it was in."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import numpy as np

from instructrec_jax.model.layers import ACTIVATION_AXES

SHORTEST_BUCKET = 16  # tokens


class TextTokenizer(Protocol):
    """What decoding needs of a tokenizer; `instructrec_jax.data.tokenizer.Tokenizer` is one."""

    eos_id: int

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        """Token ids of each text, without eos.

        With `parse_sentinels` "<extra_id_0>" in a text is the sentinel, otherwise plain text.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""


def encode_texts(
    tokenizer: TextTokenizer,
    texts: Sequence[str | Sequence[int]],
    *,
    parse_sentinels: bool = False,
) -> list[list[int]]:
    """Token ids and eos of each text; token ids in place of a text are taken as they are."""
    only_texts = [text for text in texts if isinstance(text, str)]
    encoded = iter(tokenizer.encode_batch(only_texts, parse_sentinels=parse_sentinels))
    return [
        [*next(encoded), tokenizer.eos_id] if isinstance(text, str) else list(text)
        for text in texts
    ]


def cut(tokens: list[int], *, max_length: int, eos_id: int) -> list[int]:
    """`max_length` tokens at most; longer ones lose their end, but for the eos after it."""
    if len(tokens) <= max_length:
        return tokens
    return [*tokens[: max_length - 1], eos_id] if tokens[-1] == eos_id else tokens[:max_length]


def length_bucket(length: int, *, longest: int | None = None) -> int:
    """The padded length for `length` tokens: a power of two, or `longest` where that is less.

    It depends on nothing else, so an example is padded alike whatever is decoded beside it.
    """
    bucket = max(SHORTEST_BUCKET, 1 << (length - 1).bit_length())
    return bucket if longest is None else min(bucket, longest)


def grouped_by_shape(
    shapes: Sequence[tuple[int, ...]], *, batch_size: int
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Each shape that occurs, with the places in `shapes` of up to `batch_size` examples of it.

    Shapes in ascending order, examples in theirs.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    for shape in sorted(places):
        for start in range(0, len(places[shape]), batch_size):
            yield shape, places[shape][start : start + batch_size]


def rows_in_batch(batch_size: int, examples: int) -> int:
    """Rows that every batch is padded to: `batch_size`, or less where there are few examples.

    A multiple of the devices that split the batch, where a mesh is set.
    """
    rows = min(batch_size, 1 << max(examples - 1, 0).bit_length())
    mesh = jax.sharding.get_abstract_mesh()
    axes = ACTIVATION_AXES["batch"]
    devices = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in axes)
    return -(-rows // devices) * devices


def padded(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens of `shape` and their mask: 1 where there is a token, 0 in padding."""
    tokens = np.zeros(shape, np.int32)
    mask = np.zeros(shape, np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return tokens, mask
