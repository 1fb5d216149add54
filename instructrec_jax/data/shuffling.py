"""Random order as a pure function of a key, the same on every host and with every NumPy."""

import hashlib

import numpy as np

# So many pass for random down to five elements (tests/data/test_shuffling.py).
_FEISTEL_ROUNDS = 12
_TURN_KEYS = [np.uint64((turn + 1) * 0x9E3779B97F4A7C15 % 2**64) for turn in range(_FEISTEL_ROUNDS)]
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_ONE, _HALF_OF_THE_BITS = np.uint64(1), np.uint64(32)
# Elements that are mixed at a time, so that what lies between two operations stays in the cache.
_CHUNK = 2**13


def shuffled(count: int, *key: str | int) -> np.ndarray:
    """A permutation of range(count), int64, that depends on `count` and `key` alone.

    The order is a stable argsort of raw Philox output (Salmon et al., 2011): NumPy keeps that
    stream for good, while `Generator.permutation` may change between versions.
    """
    generator = np.random.Philox(key=np.frombuffer(_digest(key)[:16], "<u8"))
    return np.argsort(generator.random_raw(count), kind="stable")


def shuffle_key(*key: str | int) -> np.uint64:
    """The key of `permuted` that stands for any texts and numbers."""
    return np.frombuffer(_digest(key)[:8], "<u8")[0]


def _digest(key: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


def permuted(
    places: np.ndarray, counts: np.ndarray | int, keys: np.ndarray | np.uint64
) -> np.ndarray:
    """Where permutations take some of their elements, without making the permutations.

    A permutation of range(count) is a generalised Feistel network over a rectangle of hardly more
    elements; what it takes outside the range goes through it again (cycle walking; both are of
    Black and Rogaway, 2002, "Ciphers with Arbitrary Finite Domains").

    Args:
        places: int64 [elements], each from 0 to its count - 1.
        counts: int64 [elements], or one for all: how many elements each permutation has.
        keys: uint64 [elements], or one for all: which permutation of so many elements it is.

    Returns:
        int64 [elements], each from 0 to its count - 1.
    """
    result = np.empty(len(places), np.int64)
    counts = np.broadcast_to(np.asarray(counts, np.uint64), places.shape)
    keys = np.broadcast_to(np.asarray(keys, np.uint64), places.shape)
    for start in range(0, len(places), _CHUNK):
        part = slice(start, start + _CHUNK)
        count, key = counts[part], keys[part]
        own = _feistel(places[part].astype(np.uint64), count, key)
        while len(outside := np.flatnonzero(own >= count)):
            own[outside] = _feistel(own[outside], count[outside], key[outside])
        result[part] = own
    return result


def _feistel(values: np.ndarray, counts: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One pass over values written as `high * width + low`, uint64 [values], all three."""
    width = np.ceil(np.sqrt(counts.astype(np.float64))).astype(np.uint64)
    height = (counts + width - _ONE) // width
    high, low = np.divmod(values, width)
    for turn, turn_key in enumerate(_TURN_KEYS):
        half, limit, other = (high, height, low) if turn % 2 else (low, width, high)
        shift = _mixed(other, keys + turn_key)
        shift *= limit
        shift >>= _HALF_OF_THE_BITS
        half += shift
        # Below zero wraps to the top: the least of the two is half + shift modulo limit.
        np.minimum(half, half - limit, out=half)
    return high * width + low


def _mixed(values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Pseudo-random 32 bits of each value and key, uint64 (mixed much as by splitmix64)."""
    mixed = values + keys
    mixed *= _FACTORS[0]
    mixed ^= mixed >> _HALF_OF_THE_BITS
    mixed *= _FACTORS[1]
    mixed >>= _HALF_OF_THE_BITS
    return mixed
