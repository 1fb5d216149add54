"""The packing plan: which examples stand in which row of which step.

Everything follows from the token cache, the settings and a step number. Epochs follow one another
in one endless sequence of rows, and step s takes rows s * batch_size to (s + 1) * batch_size of it;
a step may span two epochs, or many where the data are few. Where a run stands is therefore one
integer, and nothing depends on the number of hosts.

An epoch is cut into blocks of about a million examples in their random order, and each block is
packed on its own when its steps come, the next one in a thread meanwhile: the first step waits for
one block, and memory holds a few of them beside 8 bytes an example. How many rows a block has is
known once it is packed; so that a resumed run need not pack all blocks before its own again, it
is given a bookmark, the number of its block's first row. Epochs of a few examples, of which a step
takes many, are planned many at a time.
"""

import bisect
import dataclasses
import hashlib
import json
import threading
from typing import Any

import numpy as np

from instructrec_jax.data.mixture import mixture_phases
from instructrec_jax.data.order import ExampleOrder
from instructrec_jax.data.packing import Rows, join_rows, pack, pack_each
from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.data.token_cache import TokenCache
from instructrec_jax.errors import ConfigError, DataError

# Part of the plan's hash: raise it with any change that gives other rows.
PLAN_VERSION = 2
_BLOCKS_KEPT = 4
_CHUNK = 2**20
# Examples of small epochs that are planned together.
_TOGETHER = 2**14

# An epoch and one of its blocks, both from 0.
Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Settings of a plan.

    Attributes:
        encoder_length: encoder tokens in a row.
        decoder_length: decoder tokens in a row.
        batch_size: rows of a step over all hosts.
        seed: of the data order.
        open_bins: rows that are filled at the same time while packing.
        max_segments: examples in a row at most, 0 = any number.
        mixture: "proportional", "temperature" or "explicit"; see mixture.py, also for its cap,
            temperature, rates and schedule.
        max_examples: examples of an epoch at most, 0 = all.
        shuffle: without, every epoch has the order of the cache.
        block_examples: examples that are packed together at most.
    """

    encoder_length: int
    decoder_length: int
    batch_size: int
    seed: int = 0
    open_bins: int = 64
    max_segments: int = 0
    mixture: str = "proportional"
    mixture_cap: int = 0
    mixture_temperature: float = 1.0
    mixture_rates: tuple[tuple[str, float], ...] = ()
    mixture_schedule: tuple[tuple[int, tuple[tuple[str, float], ...]], ...] = ()
    max_examples: int = 0
    shuffle: bool = True
    block_examples: int = 2**20


class PackingPlan:
    """Rows of examples for every step, the same on every host.

    Attributes:
        cache: the tokens.
        config: the settings.
        sizes: examples that each task has.
        phases: the mixture of every epoch.
        sha256: hash of all that the rows depend on. Runs with the same hash see the same batches.
    """

    def __init__(self, cache: TokenCache, config: PlanConfig) -> None:
        """Plan the rows of `cache`.

        Raises:
            ConfigError: a setting that makes no sense.
            DataError: no examples, or one that is longer than a row.
        """
        _check_settings(config)
        if not len(cache):
            raise DataError("the token cache holds no examples")
        self.cache = cache
        self.config = config
        self._encoder_lengths = self._checked_lengths("encoder", config.encoder_length)
        self._decoder_lengths = self._checked_lengths("decoder", config.decoder_length)
        sizes = _task_sizes(cache)
        self.sizes = dict(zip(cache.tasks, sizes.tolist(), strict=True))
        self.phases = mixture_phases(
            self.sizes,
            mixture=config.mixture,
            cap=config.mixture_cap,
            temperature=config.mixture_temperature,
            rates=config.mixture_rates,
            schedule=config.mixture_schedule,
            max_examples=config.max_examples,
        )
        self._order = ExampleOrder(
            cache.task_ids, sizes, self.phases, seed=config.seed, shuffle=config.shuffle
        )
        self.sha256 = self._hash()
        # Blocks whose first row is known, in their order, and that row's number in the endless
        # sequence.
        self._places: list[Place] = [(0, 0)]
        self._first_rows = [0]
        self._blocks: dict[Place, Rows] = {}
        self._ahead: tuple[Place, threading.Thread, list[dict[Place, Rows]]] | None = None
        self._lock = threading.RLock()

    def _checked_lengths(self, side: str, limit: int) -> np.ndarray:
        """Tokens of each example on one side, uint16 or int32 [examples]."""
        offsets = getattr(self.cache, f"{side}_offsets")
        result = np.empty(len(self.cache), np.uint16 if limit < 2**16 else np.int32)
        for start in range(0, len(result), _CHUNK):
            lengths = np.diff(offsets[start : start + _CHUNK + 1])
            longest = int(lengths.argmax())
            if lengths[longest] > limit:
                raise DataError(
                    f"example {self.cache.example_id(start + longest)} has {lengths[longest]} "
                    f"{side} tokens, a row has {limit}: raise data.{side}_length or make the token "
                    "cache with this limit"
                )
            result[start : start + _CHUNK] = lengths
        return result

    def _hash(self) -> str:
        parts = {
            "version": PLAN_VERSION,
            "tokens": self.cache.sha256,
            "config": dataclasses.asdict(self.config),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def epoch_size(self, epoch: int) -> int:
        """Examples of an epoch."""
        return self._order.size(epoch)

    def block_count(self, epoch: int) -> int:
        """Blocks of an epoch, all of about the same size."""
        return -(-self._order.size(epoch) // self.config.block_examples)

    def _after(self, place: Place) -> Place:
        epoch, block = place
        return (epoch, block + 1) if block + 1 < self.block_count(epoch) else (epoch + 1, 0)

    def epoch_rows(self, epoch: int) -> Rows:
        """All rows of an epoch, of indices into the cache, in the order of training."""
        return join_rows(
            [self.block_rows(epoch, block) for block in range(self.block_count(epoch))]
        )

    def block_rows(self, epoch: int, block: int) -> Rows:
        """Rows of a block, of indices into the cache, in the order of training."""
        place = (epoch, block)
        with self._lock:
            if place not in self._blocks:
                found = self._take_ahead(place) or self._plan(place)
                for old in list(self._blocks)[: (1 - _BLOCKS_KEPT) * len(found)]:
                    del self._blocks[old]
                self._blocks.update(found)
            return self._blocks[place]

    def _start_ahead(self, place: Place) -> None:
        """Plan a block in a thread, unless it is planned already or under way."""
        with self._lock:
            if place in self._blocks or (self._ahead and self._ahead[0] == place):
                return
            result: list[dict[Place, Rows]] = []
            thread = threading.Thread(target=lambda: result.append(self._plan(place)), daemon=True)
            self._ahead = (place, thread, result)
            thread.start()

    def _take_ahead(self, place: Place) -> dict[Place, Rows] | None:
        """What the thread has planned from a block on, None if it worked on another or failed."""
        if self._ahead is None or self._ahead[0] != place:
            return None
        _, thread, result = self._ahead
        thread.join()
        self._ahead = None
        return result[0] if result else None

    def _plan(self, place: Place) -> dict[Place, Rows]:
        """The rows of a block, or of the small epochs that are planned together with it."""
        first, stop = self._together(place[0])
        if stop - first == 1:
            return {place: self._plan_block(place)}
        config, examples = self.config, self._order.whole_epochs(first, stop)
        rows, counts = pack_each(
            self._encoder_lengths[examples],
            self._decoder_lengths[examples],
            encoder_length=config.encoder_length,
            decoder_length=config.decoder_length,
            max_segments=config.max_segments,
        )
        ends = np.cumsum(counts)
        if config.shuffle:
            orders = (
                end - count + shuffled(count, "rows", config.seed, epoch, 0)
                for epoch, end, count in zip(
                    range(first, stop), ends.tolist(), counts.tolist(), strict=True
                )
            )
            rows = rows.select(np.concatenate(list(orders)))
        chosen = examples.reshape(-1)[rows.examples].reshape(examples.shape)
        offsets = np.split(rows.offsets[:-1], ends[:-1])
        size = examples.shape[1]
        return {
            (first + number, 0): Rows(own, np.append(begins - number * size, size))
            for number, (own, begins) in enumerate(zip(chosen, offsets, strict=True))
        }

    def _together(self, epoch: int) -> tuple[int, int]:
        """The first of the epochs that are planned together with one, and the one after them."""
        size = self._order.size(epoch)
        # Up to so many examples are packed in one window, whatever their lengths.
        if size > min(self.config.open_bins, self.config.block_examples):
            return epoch, epoch + 1
        count, (first, stop) = _TOGETHER // size, self._order.same_sizes(epoch)
        first += (epoch - first) // count * count
        return first, first + count if stop is None else min(first + count, stop)

    def _plan_block(self, place: Place) -> Rows:
        config, (epoch, block) = self.config, place
        size, blocks = self._order.size(epoch), self.block_count(epoch)
        examples = self._order.examples(epoch, size * block // blocks, size * (block + 1) // blocks)
        rows = pack(
            self._encoder_lengths[examples],
            self._decoder_lengths[examples],
            encoder_length=config.encoder_length,
            decoder_length=config.decoder_length,
            open_bins=config.open_bins,
            max_segments=config.max_segments,
        )
        if config.shuffle:
            # Packing sorts by length, and the rows that it packs last are the odd ones.
            rows = rows.select(shuffled(len(rows), "rows", config.seed, epoch, block))
        return Rows(examples[rows.examples], rows.offsets)

    def rows_for_steps(self, start: int, stop: int) -> Rows:
        """Rows of the global batches `start` to `stop - 1`: (stop - start) * batch_size of them.

        The block after them is planned in a thread meanwhile.
        """
        first, last = start * self.config.batch_size, stop * self.config.batch_size
        if start < 0 or last <= first:
            raise ValueError(f"no steps from {start} to {stop}")
        parts = []
        with self._lock:
            place, begin = self._find(first)
            while begin < last:
                rows = self.block_rows(*place)
                if first <= begin and begin + len(rows) <= last:
                    parts.append(rows)
                else:
                    wanted = np.arange(max(first - begin, 0), min(last - begin, len(rows)))
                    parts.append(rows.select(wanted))
                place, begin = self._after(place), begin + len(rows)
                self._note(place, begin)
        self._start_ahead(place)
        return join_rows(parts)

    def example_ids(self, step: int) -> list[str]:
        """Ids of the examples in the global batch of a step (from 0), row by row."""
        rows = self.rows_for_steps(step, step + 1)
        return [self.cache.example_id(index) for index in rows.examples.tolist()]

    def epoch_of_step(self, step: int) -> int:
        """The epoch, from 0, that the first row of a step belongs to."""
        return self.block_of_step(step)[0]

    def block_of_step(self, step: int) -> Place:
        """The epoch and its block, both from 0, that the first row of a step belongs to."""
        with self._lock:
            return self._find(step * self.config.batch_size)[0]

    def _known(self, row: int) -> int:
        """The number, in `_places`, of the last block known to begin at a row or before it."""
        return bisect.bisect_right(self._first_rows, row) - 1

    def _note(self, place: Place, first_row: int) -> None:
        """Keeps the first row of a block; of epochs that are planned together, of the first."""
        if self._together(place[0])[0] == place[0]:
            self._keep(place, first_row)

    def _keep(self, place: Place, first_row: int) -> None:
        number = bisect.bisect_left(self._places, place)
        if self._places[number : number + 1] != [place]:
            self._places.insert(number, place)
            self._first_rows.insert(number, first_row)

    def _find(self, row: int) -> tuple[Place, int]:
        """The block that a row of the endless sequence belongs to, and its first row.

        Blocks between the last one known and the row are packed to see how many rows they have.
        """
        number = self._known(row)
        place, begin = self._places[number], self._first_rows[number]
        if self._places[number + 1 : number + 2] == [self._after(place)]:
            return place, begin
        while row >= begin + (length := len(self.block_rows(*place))):
            place, begin = self._after(place), begin + length
            self._note(place, begin)
        return place, begin

    def bookmark(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that a run which goes on from `step` finds its block at once.

        Returns:
            The epoch and block of a row at or before the step's first, that block's first row, and
            a check that ties them to this plan.
        """
        with self._lock:
            number = self._known(step * self.config.batch_size)
            (epoch, block), row = self._places[number], self._first_rows[number]
        return {"epoch": epoch, "block": block, "row": row, "check": self._seal(epoch, block, row)}

    def _seal(self, epoch: int, block: int, row: int) -> str:
        text = f"{self.sha256} {epoch} {block} {row}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def open_at(self, bookmark: Any) -> bool:
        """Take a bookmark of an equal plan; whether it is one.

        Without one, blocks are packed from the first on until the asked step is found: the rows are
        the same.
        """
        try:
            epoch, block, row = (int(bookmark[name]) for name in ("epoch", "block", "row"))
            if bookmark["check"] != self._seal(epoch, block, row):
                return False
        except (KeyError, TypeError, ValueError):
            return False
        with self._lock:
            self._keep((epoch, block), row)
        return True

    def statistics(self, epoch: int) -> dict[str, Any]:
        """Packing figures of an epoch; a fill is the share of a side's positions with a token.

        Where an epoch has several blocks, they are those of the first, and the number of rows is
        reckoned from it.
        """
        rows, size = self.block_rows(epoch, 0), self.epoch_size(epoch)
        encoder_tokens = int(self._encoder_lengths[rows.examples].sum())
        decoder_tokens = int(self._decoder_lengths[rows.examples].sum())
        return {
            "examples": size,
            "rows": round(len(rows) * size / len(rows.examples)),
            "encoder_fill": encoder_tokens / (len(rows) * self.config.encoder_length),
            "decoder_fill": decoder_tokens / (len(rows) * self.config.decoder_length),
            "examples_per_row": len(rows.examples) / len(rows),
        }


def _check_settings(config: PlanConfig) -> None:
    least = {
        "data.encoder_length": (config.encoder_length, 1),
        "data.decoder_length": (config.decoder_length, 1),
        "data.open_bins": (config.open_bins, 1),
        "data.max_segments": (config.max_segments, 0),
        "train.batch_size": (config.batch_size, 1),
    }
    for key, (value, minimum) in least.items():
        if value < minimum:
            raise ConfigError(f"{key} is {value}: it must be {minimum} or more")


def _task_sizes(cache: TokenCache) -> np.ndarray:
    """Examples of each task, int64 [tasks]."""
    sizes = np.zeros(len(cache.tasks), np.int64)
    for start in range(0, len(cache), _CHUNK):
        sizes += np.bincount(cache.task_ids[start : start + _CHUNK], minlength=len(sizes))
    return sizes
