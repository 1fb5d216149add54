"""Two-dimensional packing: examples into rows that bound encoder and decoder tokens.

Best-fit decreasing over windows of examples. All rows of a window are open at once; an example goes
to the row that it fills best, judged by what it would leave on both sides (the norm-based greedy
heuristic of Panigrahy et al., 2011, "Heuristics for Vector Bin Packing"). Windows are independent,
so NumPy places one example in each of many windows at a time. The emptiest rows of all windows are
then taken apart and packed again together.

Every sort is stable, and the arithmetic is whole numbers and single float32 operations, which no
library or processor rounds differently: the result is the same on every host.
"""

from dataclasses import dataclass

import numpy as np

# Windows that are packed in step: enough to hide NumPy's overhead a call, few enough for the cache.
_WINDOWS_AT_ONCE = 64
# How often rows are taken apart, and which share of them: those least filled.
_ROUNDS = 4
_REPACKED_SHARE = 0.3
# Tuned on log-normal lengths.
_BALANCE = 4.0


@dataclass(frozen=True)
class Rows:
    """Packed rows: row r holds `examples[offsets[r]:offsets[r + 1]]`, in this order.

    Attributes:
        examples: int64 [examples], indices.
        offsets: int64 [rows + 1].
    """

    examples: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def select(self, order: np.ndarray) -> "Rows":
        """The rows named by `order`, in that order."""
        lengths = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(self.offsets[:-1][order] - offsets[:-1], lengths)
        return Rows(self.examples[source + np.arange(len(source))], offsets)


def join_rows(parts: list[Rows]) -> Rows:
    """All rows of the parts, one part after another."""
    examples = np.concatenate([part.examples for part in parts])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Rows(examples, np.concatenate([[0], np.cumsum(lengths)]))


def pack(
    encoder_lengths: np.ndarray,
    decoder_lengths: np.ndarray,
    *,
    encoder_length: int,
    decoder_length: int,
    open_bins: int,
    max_segments: int = 0,
) -> Rows:
    """Pack examples into rows of at most `encoder_length` and `decoder_length` tokens.

    Args:
        encoder_lengths: int [examples], tokens of each example, zero allowed.
        decoder_lengths: int [examples], likewise.
        encoder_length: encoder tokens in a row.
        decoder_length: decoder tokens in a row.
        open_bins: about how many rows a window fills; more fill better and take longer.
        max_segments: examples in a row at most, 0 = any number.

    Returns:
        Rows of indices into `encoder_lengths`; every index occurs exactly once.

    Raises:
        ValueError: an example that is longer than a row.
    """
    count = len(encoder_lengths)
    if count == 0:
        return Rows(np.zeros(0, np.int64), np.zeros(1, np.int64))
    if encoder_lengths.max() > encoder_length or decoder_lengths.max() > decoder_length:
        raise ValueError(f"an example is longer than a row ({encoder_length}/{decoder_length})")
    lengths = np.stack([encoder_lengths, decoder_lengths]).astype(np.float32)
    limits = np.array([encoder_length, decoder_length], np.float32)
    needed_rows = lengths.sum(axis=1, dtype=np.float64) / limits
    weights = _weights(needed_rows)[:, None]
    rows_at_least = max(needed_rows.max(), count / max_segments if max_segments else 1.0, 1.0)
    window = max(int(open_bins * count / rows_at_least), open_bins)

    row_of = np.empty(count, np.int64)
    row_count = 0
    left = np.arange(count)
    for turn in range(_ROUNDS):
        last_turn = turn == _ROUNDS - 1 or len(left) <= window
        rows, fill = _pack_windows(lengths[:, left], limits, weights, window, max_segments)
        kept = fill >= (0 if last_turn else np.quantile(fill, _REPACKED_SHARE, method="lower"))
        settled = kept[rows]
        row_of[left[settled]] = row_count + (np.cumsum(kept) - 1)[rows[settled]]
        row_count += int(kept.sum())
        left = left[~settled]
        if not len(left):
            break
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=row_count))])
    return Rows(np.argsort(row_of, kind="stable"), offsets)


def pack_each(
    encoder_lengths: np.ndarray,
    decoder_lengths: np.ndarray,
    *,
    encoder_length: int,
    decoder_length: int,
    max_segments: int = 0,
) -> tuple[Rows, np.ndarray]:
    """Pack many sets of few examples, each by itself as `pack` does where one window holds them.

    Args:
        encoder_lengths: int [sets, examples], none longer than a row.
        decoder_lengths: int [sets, examples], likewise.
        encoder_length: encoder tokens in a row.
        decoder_length: decoder tokens in a row.
        max_segments: examples in a row at most, 0 = any number.

    Returns:
        Rows of indices into the flattened lengths, one set after another, and how many rows each
        set has, int64 [sets].
    """
    sets, size = encoder_lengths.shape
    lengths = np.stack([encoder_lengths, decoder_lengths]).astype(np.float32)
    limits = np.array([encoder_length, decoder_length], np.float32)
    needed_rows = lengths.sum(axis=2, dtype=np.float64) / limits[:, None]
    row_of, _ = _pack_windows(
        lengths.reshape(2, -1), limits, _weights(needed_rows), size, max_segments
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
    ends = np.maximum.accumulate(row_of)[size - 1 :: size] + 1
    return Rows(np.argsort(row_of, kind="stable"), offsets), np.diff(ends, prepend=0)


def _weights(needed_rows: np.ndarray) -> np.ndarray:
    """How much each side binds, float32 [2, ...]: 1 for the side that needs more rows."""
    return (needed_rows / np.maximum(needed_rows.max(axis=0), 1e-9)).astype(np.float32)


def _pack_windows(
    lengths: np.ndarray, limits: np.ndarray, weights: np.ndarray, window: int, max_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pack consecutive windows of about `window` examples each, without touching one another.

    `weights`, float32 [2, windows or 1], are those of `_best_fit_decreasing`.

    Returns the row of each example, int64 [examples], and the fill of each row on its fuller side,
    float32 [rows].
    """
    count = lengths.shape[1]
    windows = -(-count // window)
    size = -(-count // windows)
    # The last window is filled up with examples of no tokens, which change no row.
    padded = np.zeros((2, windows * size), np.float32)
    padded[:, :count] = lengths
    padded = padded.reshape(2, windows, size)
    weights = np.broadcast_to(weights, (2, windows))

    rows, fills = [], []
    first_row = 0
    for start in range(0, windows, _WINDOWS_AT_ONCE):
        block = padded[:, start : start + _WINDOWS_AT_ONCE]
        binding = weights[:, start : start + _WINDOWS_AT_ONCE, None]
        bins, left = _best_fit_decreasing(block, limits, binding, max_segments)
        width = left.shape[2]
        rows.append(first_row + bins + width * np.arange(len(bins))[:, None])
        used = (limits[:, None, None] - left) / limits[:, None, None]
        fills.append((used * binding).max(axis=0).reshape(-1))
        first_row += width * len(bins)
    row_of = np.concatenate(rows).reshape(-1)[:count]
    # Number the rows that hold an example from 0.
    holds = np.bincount(row_of, minlength=first_row) > 0
    return (np.cumsum(holds) - 1)[row_of], np.concatenate(fills)[holds]


def _best_fit_decreasing(
    lengths: np.ndarray, limits: np.ndarray, weights: np.ndarray, max_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pack each window on its own.

    Args:
        lengths: float32 [2, windows, examples].
        limits: float32 [2], tokens of a row on each side.
        weights: float32 [2, windows, 1], how much each side binds.
        max_segments: examples in a row at most, 0 = any number.

    Returns:
        The row of each example in its window, int64 [windows, examples], and the tokens left in
        each row, float32 [2, windows, rows].
    """
    _, windows, size = lengths.shape
    scale = (1 / limits).astype(np.float32)
    share = lengths * scale[:, None, None]
    key = share[0] * weights[0] + share[1] * weights[1]
    order = np.argsort(-key, axis=1, kind="stable")
    encoder = np.take_along_axis(lengths[0], order, axis=1)
    decoder = np.take_along_axis(lengths[1], order, axis=1)

    left = np.empty((2, windows, size), np.float32)
    left[:] = limits[:, None, None]
    # Where both sides bind, filling a row evenly is worth more than filling it soon, and may be
    # worth opening another row. Where one side binds, an empty row is the worst fit of all.
    balance = _BALANCE * np.square(np.square(weights.min(axis=0)))
    every = np.arange(windows)
    placed = np.empty((size, windows), np.int64)
    segments = np.zeros((windows, size), np.int32)
    opened = 1
    for step in range(size):
        encoder_left = left[0, :, :opened] - encoder[:, step, None]
        decoder_left = left[1, :, :opened] - decoder[:, step, None]
        too_small = (encoder_left < 0) | (decoder_left < 0)
        if max_segments:
            too_small |= segments[:, :opened] >= max_segments
        encoder_left *= scale[0]
        decoder_left *= scale[1]
        score = weights[0] * encoder_left**2 + weights[1] * decoder_left**2
        score += balance * (encoder_left - decoder_left) ** 2
        np.putmask(score, too_small, np.inf)
        best = score.argmin(axis=1)
        placed[step] = best
        left[0, every, best] -= encoder[:, step]
        left[1, every, best] -= decoder[:, step]
        if max_segments:
            segments[every, best] += 1
        opened = min(max(opened, int(best.max()) + 2), size)
    bins = np.empty((windows, size), np.int64)
    np.put_along_axis(bins, order, placed.T, axis=1)
    return bins, left[:, :, :opened]
