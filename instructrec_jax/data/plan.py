"""The packing plan: which examples stand in which row of which step.

Everything follows from the token cache, the settings and a step number. Epochs follow one another
in one endless sequence of rows, and step s takes rows s * batch_size to (s + 1) * batch_size of it;
a step may span two epochs, or many where the data are few. Where a run stands is therefore one
integer, and nothing depends on the number of hosts.
"""

import bisect
import dataclasses
import hashlib
import json
import threading
from typing import Any

import numpy as np

from instructrec_jax.data.mixture import epoch_counts, epoch_examples
from instructrec_jax.data.packing import Rows, join_rows, pack
from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.data.token_cache import TokenCache
from instructrec_jax.errors import ConfigError, DataError

# Part of the plan's hash: raise it with any change that gives other rows.
PLAN_VERSION = 1
_EPOCHS_KEPT = 4


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Settings of a plan.

    Attributes:
        encoder_length: encoder tokens in a row.
        decoder_length: decoder tokens in a row.
        batch_size: rows of a step over all hosts.
        seed: of the data order.
        open_bins: rows that are filled at the same time while packing.
        mixture: "proportional", "temperature" or "explicit"; see mixture.py, also for its cap,
            temperature and rates.
        max_examples: examples of an epoch at most, 0 = all.
        shuffle: without, every epoch has the order of the cache.
    """

    encoder_length: int
    decoder_length: int
    batch_size: int
    seed: int = 0
    open_bins: int = 64
    mixture: str = "proportional"
    mixture_cap: int = 0
    mixture_temperature: float = 1.0
    mixture_rates: tuple[tuple[str, float], ...] = ()
    max_examples: int = 0
    shuffle: bool = True


class PackingPlan:
    """Rows of examples for every step, the same on every host.

    Attributes:
        cache: the tokens.
        config: the settings.
        counts: examples of each task in an epoch.
        sha256: hash of all that the rows depend on. Runs with the same hash see the same batches.
    """

    def __init__(self, cache: TokenCache, config: PlanConfig) -> None:
        """Plan the rows of `cache`.

        Raises:
            ConfigError: a setting that makes no sense.
            DataError: no examples, or one that is longer than a row.
        """
        positive = {
            "data.encoder_length": config.encoder_length,
            "data.decoder_length": config.decoder_length,
            "data.open_bins": config.open_bins,
            "train.batch_size": config.batch_size,
        }
        for key, value in positive.items():
            if value < 1:
                raise ConfigError(f"{key} is {value}: it must be 1 or more")
        self.cache = cache
        self.config = config
        self._encoder_lengths = np.diff(cache.encoder_offsets).astype(np.int32)
        self._decoder_lengths = np.diff(cache.decoder_offsets).astype(np.int32)
        self._check_lengths()
        by_task = np.argsort(cache.task_ids, kind="stable")
        ends = np.cumsum(np.bincount(cache.task_ids, minlength=len(cache.tasks)))
        self._members = dict(zip(cache.tasks, np.split(by_task, ends[:-1]), strict=True))
        self.counts = epoch_counts(
            {task: len(indices) for task, indices in self._members.items()},
            mixture=config.mixture,
            cap=config.mixture_cap,
            temperature=config.mixture_temperature,
            rates=config.mixture_rates,
            max_examples=config.max_examples,
        )
        self.sha256 = self._hash()
        # Row number, in the endless sequence, of the first row of each epoch planned so far.
        self._first_rows = [0]
        self._epochs: dict[int, Rows] = {}
        self._ahead: tuple[int, threading.Thread, list[Rows]] | None = None
        self._lock = threading.RLock()

    def _check_lengths(self) -> None:
        sides = (
            ("encoder", self._encoder_lengths, self.config.encoder_length),
            ("decoder", self._decoder_lengths, self.config.decoder_length),
        )
        if not len(self.cache):
            raise DataError("the token cache holds no examples")
        for side, lengths, limit in sides:
            longest = int(lengths.argmax())
            if lengths[longest] > limit:
                raise DataError(
                    f"example {self.cache.example_id(longest)} has {lengths[longest]} {side} "
                    f"tokens, a row has {limit}: raise data.{side}_length or make the token "
                    "cache with this limit"
                )

    def _hash(self) -> str:
        parts = {
            "version": PLAN_VERSION,
            "tokens": self.cache.sha256,
            "config": dataclasses.asdict(self.config),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def epoch_rows(self, epoch: int) -> Rows:
        """Rows of an epoch, of indices into the cache, in the order of training."""
        with self._lock:
            rows = self._epochs.get(epoch)
            if rows is None:
                rows = self._take_ahead(epoch) or self._plan_epoch(epoch)
                for old in list(self._epochs)[: 1 - _EPOCHS_KEPT]:
                    del self._epochs[old]
                self._epochs[epoch] = rows
            return rows

    def _start_ahead(self, epoch: int) -> None:
        """Plan an epoch in a thread, unless it is planned already or under way."""
        with self._lock:
            if epoch in self._epochs or (self._ahead and self._ahead[0] == epoch):
                return
            result: list[Rows] = []
            thread = threading.Thread(
                target=lambda: result.append(self._plan_epoch(epoch)), daemon=True
            )
            self._ahead = (epoch, thread, result)
            thread.start()

    def _take_ahead(self, epoch: int) -> Rows | None:
        """The epoch that the thread has planned, None if it worked on another or failed."""
        if self._ahead is None or self._ahead[0] != epoch:
            return None
        _, thread, result = self._ahead
        thread.join()
        self._ahead = None
        return result[0] if result else None

    def _plan_epoch(self, epoch: int) -> Rows:
        config = self.config
        examples = epoch_examples(
            self._members, self.counts, epoch=epoch, seed=config.seed, shuffle=config.shuffle
        )
        rows = pack(
            self._encoder_lengths[examples],
            self._decoder_lengths[examples],
            encoder_length=config.encoder_length,
            decoder_length=config.decoder_length,
            open_bins=config.open_bins,
        )
        if config.shuffle:
            # Packing sorts by length, and the rows that it packs last are the odd ones.
            rows = rows.select(shuffled(len(rows), "rows", config.seed, epoch))
        return Rows(examples[rows.examples], rows.offsets)

    def rows_for_steps(self, start: int, stop: int) -> Rows:
        """Rows of the global batches `start` to `stop - 1`: (stop - start) * batch_size of them.

        The epoch after them is planned in a thread meanwhile.
        """
        first, last = start * self.config.batch_size, stop * self.config.batch_size
        if start < 0 or last <= first:
            raise ValueError(f"no steps from {start} to {stop}")
        epoch, parts = self.epoch_of_step(start), []
        while self._first_row(epoch) < last:
            begin = self._first_row(epoch)
            rows = self.epoch_rows(epoch)
            parts.append(
                rows.select(np.arange(max(first - begin, 0), min(last - begin, len(rows))))
            )
            epoch += 1
        self._start_ahead(epoch)
        return join_rows(parts)

    def example_ids(self, step: int) -> list[str]:
        """Ids of the examples in the global batch of a step (from 0), row by row."""
        rows = self.rows_for_steps(step, step + 1)
        return [self.cache.example_id(index) for index in rows.examples.tolist()]

    def epoch_of_step(self, step: int) -> int:
        """The epoch, from 0, that the first row of a step belongs to.

        How many rows an epoch has is known once it is packed; a resumed run packs the epochs
        before again.
        """
        row = step * self.config.batch_size
        while self._first_row(len(self._first_rows) - 1) <= row:
            self._first_row(len(self._first_rows))
        return bisect.bisect_right(self._first_rows, row) - 1

    def _first_row(self, epoch: int) -> int:
        with self._lock:
            while len(self._first_rows) <= epoch:
                rows = self.epoch_rows(len(self._first_rows) - 1)
                self._first_rows.append(self._first_rows[-1] + len(rows))
            return self._first_rows[epoch]

    def statistics(self, epoch: int) -> dict[str, Any]:
        """Packing figures of an epoch; a fill is the share of a side's positions with a token."""
        rows = self.epoch_rows(epoch)
        encoder_tokens = int(self._encoder_lengths[rows.examples].sum())
        decoder_tokens = int(self._decoder_lengths[rows.examples].sum())
        return {
            "examples": len(rows.examples),
            "rows": len(rows),
            "encoder_fill": encoder_tokens / (len(rows) * self.config.encoder_length),
            "decoder_fill": decoder_tokens / (len(rows) * self.config.decoder_length),
            "examples_per_row": len(rows.examples) / len(rows),
        }
