"""Which example stands where: an endless sequence of epochs, any part of which is made on its own.

An epoch is a random order of its quotas. The uses of a task, over all epochs, are a walk through
its examples, in a new order each time round: after any number of epochs, the uses of two examples
differ by one at most. Both orders are permutations that are never written down (shuffling.py), so a
part takes memory for itself alone, however large the epoch is.
"""

import bisect
from collections.abc import Sequence

import numpy as np

from instructrec_jax.data.mixture import Phase
from instructrec_jax.data.shuffling import permuted, shuffle_key

_CHUNK = 2**20
# Apart from one another by an odd constant, the keys of a task's rounds do not meet other tasks'.
_ROUND_KEYS = np.uint64(0x9E3779B97F4A7C15)


class ExampleOrder:
    """The order of examples in every epoch.

    It keeps 4 bytes an example (8 where there are more than 2**32).
    """

    def __init__(
        self,
        task_ids: np.ndarray,
        sizes: np.ndarray,
        phases: Sequence[Phase],
        *,
        seed: int,
        shuffle: bool,
    ) -> None:
        """Sort the examples by task.

        Args:
            task_ids: int32 [examples], the task of each.
            sizes: int64 [tasks], examples of each.
            phases: quotas of each task, with the epochs that they begin with.
            seed: of the order.
            shuffle: without, tasks follow one another and each keeps the order of `task_ids`.
        """
        self._seed = seed
        self._shuffle = shuffle
        # A task without examples is never drawn.
        self._sizes = np.maximum(sizes, 1)
        self._starts = np.cumsum(sizes) - sizes
        self._members = _sorted_by_task(task_ids, self._starts)
        self._phases = [
            (phase.first_epoch, np.array(list(phase.counts.values()), np.int64)) for phase in phases
        ]
        self._task_keys = np.array(
            [shuffle_key("task", seed, task) for task in range(len(sizes))], np.uint64
        )

    def size(self, epoch: int) -> int:
        """Examples of an epoch."""
        return int(self._quotas(epoch)[0].sum())

    def _quotas(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples of each task in an epoch, and in all the epochs before it; int64 [tasks]."""
        before = np.zeros(len(self._sizes), np.int64)
        ends = [first for first, _ in self._phases[1:]] + [epoch + 1]
        for (first, counts), end in zip(self._phases, ends, strict=True):
            if end > epoch:
                return counts, before + counts * (epoch - first)
            before += counts * (end - first)
        raise ValueError(f"no epoch {epoch}")

    def same_sizes(self, epoch: int) -> tuple[int, int | None]:
        """First epoch of those with an epoch's quotas, and the first one after them, if any."""
        firsts = [first for first, _ in self._phases]
        number = bisect.bisect_right(firsts, epoch)
        return firsts[number - 1], firsts[number] if number < len(firsts) else None

    def examples(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The examples at places `start` to `stop - 1` of an epoch, int64 [stop - start]."""
        return self._examples(epoch, 1, np.arange(start, stop)[None])[0]

    def whole_epochs(self, first: int, stop: int) -> np.ndarray:
        """The examples of epochs with the same quotas, int64 [stop - first, size]."""
        places = np.arange(self.size(first))
        return self._examples(first, stop - first, np.tile(places, (stop - first, 1)))

    def _examples(self, first: int, epochs: int, place: np.ndarray) -> np.ndarray:
        """The examples at the places of so many epochs, int64 [epochs, places], all one phase's."""
        counts, before = self._quotas(first)
        ends = np.cumsum(counts)
        shape, place = place.shape, place.reshape(-1)
        number = np.repeat(np.arange(epochs), shape[1])
        if self._shuffle:
            own = [shuffle_key("epoch", self._seed, first + each) for each in range(epochs)]
            key = np.array(own)[number] if epochs > 1 else own[0]
            place = permuted(place, int(ends[-1]), key)
        task = np.searchsorted(ends, place, side="right")
        # From the place in the epoch to that among all uses of the task.
        place += (before + counts - ends)[task] + counts[task] * number
        sizes = self._sizes[task]
        turn, place = np.divmod(place, sizes)
        # Where an epoch holds whole rounds, their own order would not be seen.
        if self._shuffle and ((counts % self._sizes).any() or (before % self._sizes).any()):
            keys = self._task_keys[task] + turn.astype(np.uint64) * _ROUND_KEYS
            place = permuted(place, sizes, keys)
        return self._members[self._starts[task] + place].astype(np.int64).reshape(shape)


def _sorted_by_task(task_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Indices of the examples of task 0, then of task 1 and so on, in a few bytes each."""
    members = np.empty(len(task_ids), np.uint32 if len(task_ids) <= 2**32 else np.int64)
    # Sorting small whole numbers is quick.
    small = np.uint16 if len(starts) <= 2**16 else np.int32
    filled = starts.copy()
    for begin in range(0, len(task_ids), _CHUNK):
        tasks = np.asarray(task_ids[begin : begin + _CHUNK]).astype(small)
        order = np.argsort(tasks, kind="stable")
        counts = np.bincount(tasks, minlength=len(starts))
        shift = np.repeat(filled - (np.cumsum(counts) - counts), counts)
        members[shift + np.arange(len(order))] = begin + order
        filled += counts
    return members
