"""Random order as a pure function of a key, the same on every host and with every NumPy."""

import hashlib

import numpy as np


def shuffled(count: int, *key: str | int) -> np.ndarray:
    """A permutation of range(count), int64, that depends on `count` and `key` alone.

    The order is a stable argsort of raw Philox output (Salmon et al., 2011): NumPy keeps that
    stream for good, while `Generator.permutation` may change between versions.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    generator = np.random.Philox(key=np.frombuffer(digest[:16], "<u8"))
    return np.argsort(generator.random_raw(count), kind="stable")
