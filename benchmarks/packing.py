"""Packing: how full the rows are, and how fast they are planned and made, against simpler ways.

    python benchmarks/packing.py

One process, CPU only, about a minute. Lengths are log-normal, as those of instruction data are,
drawn by a fixed seed; examples longer than a row are left out. All ways see the same examples in
the same shuffled order and go through the same tf.data pipeline:

- no packing: one example a row
- next fit: one open row, closed by the first example that does not fit (as SeqIO packs)
- first fit, 8 open rows: an example goes to the first with room, else the fullest is closed
- this library, at several numbers of open rows

Printed: fill of both sides (share of positions that hold a token), planning and pipeline speed.
"""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from instructrec_jax.data.packing import Rows, pack
from instructrec_jax.data.pipeline import evaluation_batches
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.data.tensorflow_cpu import tf
from instructrec_jax.data.token_cache import TokenCache

_EXAMPLES = flags.DEFINE_integer("examples", 200_000, "Examples to pack, before those too long go.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Rows of a batch in the tf.data pipeline.")

# Row lengths (encoder, decoder), and median and sigma of the log-normal lengths on each side.
SETTINGS = (
    ((1024, 256), (130, 0.9), (25, 1.0)),
    ((512, 128), (90, 0.8), (20, 0.9)),
)


def synthetic_cache(
    limits: tuple[int, int], encoder: tuple[int, float], decoder: tuple[int, float], examples: int
) -> TokenCache:
    """A token cache of random lengths within the limits; the tokens themselves do not matter."""
    generator = np.random.Generator(np.random.Philox(0))
    lengths = [
        np.maximum(np.exp(generator.normal(np.log(median), sigma, examples)).astype(np.int64), 1)
        for median, sigma in (encoder, decoder)
    ]
    fits = (lengths[0] <= limits[0]) & (lengths[1] <= limits[1])
    offsets = [np.concatenate([[0], np.cumsum(side[fits])]) for side in lengths]
    tokens = [np.full(side[-1], 7, np.uint16) for side in offsets]
    return TokenCache(
        encoder_tokens=tokens[0],
        encoder_offsets=offsets[0],
        decoder_tokens=tokens[1],
        decoder_offsets=offsets[1],
        task_ids=np.zeros(int(fits.sum()), np.int32),
        tasks=("synthetic",),
        dropped={"over_length": int((~fits).sum())},
        truncated=0,
        sha256="",
    )


def first_fit(lengths: np.ndarray, limits: tuple[int, int], open_rows: int) -> Rows:
    """Example by example into the first of a few open rows; the fuller side decides what closes."""
    rows: list[list[int]] = []
    open_bins: list[tuple[int, int, list[int]]] = []
    for index, (encoder, decoder) in enumerate(lengths.T.tolist()):
        for place, (encoder_left, decoder_left, members) in enumerate(open_bins):
            if encoder <= encoder_left and decoder <= decoder_left:
                members.append(index)
                open_bins[place] = (encoder_left - encoder, decoder_left - decoder, members)
                break
        else:
            if len(open_bins) == open_rows:
                left = [min(b[0] / limits[0], b[1] / limits[1]) for b in open_bins]
                rows.append(open_bins.pop(left.index(min(left)))[2])
            open_bins.append((limits[0] - encoder, limits[1] - decoder, [index]))
    rows += [members for _, _, members in open_bins]
    sizes = [len(row) for row in rows]
    examples = np.fromiter((index for row in rows for index in row), np.int64, sum(sizes))
    return Rows(examples, np.concatenate([[0], np.cumsum(sizes)]))


class _FixedPlan(PackingPlan):
    """A plan of rows that were packed elsewhere."""

    def __init__(self, cache: TokenCache, config: PlanConfig, rows: Rows) -> None:
        super().__init__(cache, config)
        self._epochs[0] = rows


def measure(name: str, cache: TokenCache, config: PlanConfig, way: Callable[..., Rows]) -> None:
    """Pack in one way, run its rows through tf.data, print a line."""
    lengths = np.stack([np.diff(cache.encoder_offsets), np.diff(cache.decoder_offsets)])
    started = time.perf_counter()
    order = shuffled(len(cache), "benchmark")
    rows = way(lengths[:, order])
    rows = Rows(order[rows.examples], rows.offsets).select(shuffled(len(rows), "rows"))
    planning = time.perf_counter() - started
    figures = (plan := _FixedPlan(cache, config, rows)).statistics(0)
    batches = evaluation_batches(plan)
    next(batches)  # Building the pipeline is not part of its speed.
    started = time.perf_counter()
    examples = sum(int(batch["decoder_segment_ids"].max(axis=1).sum()) for batch in batches)
    seconds = time.perf_counter() - started
    tokens = float(lengths.sum()) / len(cache)
    print(
        f"{name:<28}{figures['encoder_fill']:>9.1%}{figures['decoder_fill']:>9.1%}"
        f"{figures['rows']:>9,}{len(cache) / planning:>14,.0f}{examples / seconds:>14,.0f}"
        f"{examples / seconds * tokens:>14,.0f}",
        flush=True,
    )


def describe_machine() -> str:
    """Processor, cores and the versions that matter."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    versions = f"numpy {np.__version__}, tensorflow {tf.__version__}"
    return f"{processor}; Python {platform.python_version()}, {versions}"


def main(_: list[str]) -> None:
    """Print a table for each setting."""
    print(describe_machine())
    for limits, encoder, decoder in SETTINGS:
        cache = synthetic_cache(limits, encoder, decoder, _EXAMPLES.value)
        config = PlanConfig(
            encoder_length=limits[0], decoder_length=limits[1], batch_size=_BATCH_SIZE.value
        )
        print(
            f"\nrows of {limits[0]}/{limits[1]} tokens; {len(cache):,} examples of "
            f"{len(cache.encoder_tokens) / len(cache):.0f}/"
            f"{len(cache.decoder_tokens) / len(cache):.0f} tokens on average\n"
            f"{'':<28}{'encoder':>9}{'decoder':>9}{'':>9}{'planned':>14}{'tf.data':>14}"
            f"{'tf.data':>14}\n"
            f"{'':<28}{'fill':>9}{'fill':>9}{'rows':>9}{'examples/s':>14}{'examples/s':>14}"
            f"{'tokens/s':>14}"
        )

        def ours(lengths: np.ndarray, open_bins: int, config: PlanConfig = config) -> Rows:
            return pack(
                *lengths,
                encoder_length=config.encoder_length,
                decoder_length=config.decoder_length,
                open_bins=open_bins,
            )

        ways: dict[str, Callable[..., Rows]] = {
            "no packing": lambda x: Rows(np.arange(x.shape[1]), np.arange(x.shape[1] + 1)),
            "next fit": lambda x, limits=limits: first_fit(x, limits, 1),
            "first fit, 8 open rows": lambda x, limits=limits: first_fit(x, limits, 8),
        }
        for open_bins in (16, 64, 256):
            ways[f"this library, {open_bins} open rows"] = lambda x, b=open_bins, f=ours: f(x, b)
        for name, way in ways.items():
            measure(name, cache, config, way)


if __name__ == "__main__":
    app.run(main)
