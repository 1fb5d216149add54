"""Choices that depend on nothing but their key: no global random state, no hash seed.

Every random decision of a build (which split, which template, which mutation) is taken through
these functions, so the dataset is the same for any order of work and any number of processes.
"""

import hashlib
import random


def digest(*parts: object, size: int = 8) -> str:
    """Hexadecimal BLAKE2b digest of the parts, `size` bytes long.

    Parts are written as text and set apart by their lengths, so ("ab", "c") differs from
    ("a", "bc").
    """
    texts = [str(part) for part in parts]
    joined = "".join([f"{len(text)}:{text}" for text in texts])
    if joined.isascii():
        data = joined.encode()
    else:
        # Lengths are of bytes.
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        data = b"".join([b"%d:%b" % (len(text), text) for text in encoded])
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def fraction(*parts: object) -> float:
    """A number in [0, 1) that is uniform over different parts and fixed for the same ones."""
    return (int(digest(*parts), 16) >> 11) / 2**53


def generator(*parts: object) -> random.Random:
    """A private pseudo-random generator seeded by the parts."""
    return random.Random(int(digest(*parts, size=16), 16))


def sha256(text: str) -> str:
    """Hexadecimal SHA-256 of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
