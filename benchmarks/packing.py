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

    python benchmarks/packing.py --planning=1000000,10000000,100000000

Time and memory of planning so many examples of 100 tasks, rows of 1024/256 tokens, a process for
each; their offsets take 20 bytes an example of disk for as long. Printed: seconds until the plan
stands, and until the rows of step 1 do; examples planned a second, in the blocks of --blocks; the
fill of the binding side in the first block; seconds in which a fresh plan finds the step after
those blocks by its bookmark; and peak memory, of which the pages of the mapped files (`mapped`) may
be dropped at any time.
"""

import dataclasses
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from absl import app, flags

from instructrec_jax.data.packing import Rows, pack
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.data.token_cache import TokenCache

_EXAMPLES = flags.DEFINE_integer("examples", 200_000, "Examples to pack, before those too long go.")
_PLANNING = flags.DEFINE_list("planning", [], "Measure planning alone, of so many examples.")
_BLOCKS = flags.DEFINE_integer("blocks", 8, "Blocks of an epoch to plan then.")
_PLANNED = flags.DEFINE_string("planned", None, "Folder of the offsets that this process plans.")
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
        super().__init__(cache, dataclasses.replace(config, block_examples=max(len(cache), 1)))
        self._blocks[0, 0] = rows


def measure(name: str, cache: TokenCache, config: PlanConfig, way: Callable[..., Rows]) -> None:
    """Pack in one way, run its rows through tf.data, print a line."""
    # Planning is measured without the memory that TensorFlow takes.
    from instructrec_jax.data.pipeline import evaluation_batches

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


def write_offsets(folder: Path, examples: int) -> None:
    """Offsets and tasks of random examples, in chunks."""
    limits, *sides = SETTINGS[0]
    offsets = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int64, (examples + 1,))
        for name in ("encoder", "decoder")
    ]
    tasks = np.lib.format.open_memmap(folder / "tasks.npy", "w+", np.int32, (examples,))
    generator = np.random.Generator(np.random.Philox(0))
    for start in range(0, examples, 2**20):
        count = min(2**20, examples - start)
        drawn = [np.exp(generator.normal(np.log(m), s, 2 * count + 9)) for m, s in sides]
        fits = (drawn[0] < limits[0]) & (drawn[1] < limits[1])
        for side, lengths in zip(offsets, drawn, strict=True):
            kept = np.maximum(lengths[fits][:count].astype(np.int64), 1)
            side[start + 1 : start + 1 + count] = side[start] + np.cumsum(kept)
        # Task t has about 1 / t of the examples of task 1.
        tasks[start : start + count] = np.exp(generator.uniform(0, np.log(100), count)) - 1


def measure_planning(folder: Path) -> None:
    """Plan the blocks of a process, print a line."""
    encoder, decoder, tasks = (
        np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("encoder", "decoder", "tasks")
    )
    cache = TokenCache(
        encoder_tokens=np.zeros(0, np.uint16),
        encoder_offsets=encoder,
        decoder_tokens=np.zeros(0, np.uint16),
        decoder_offsets=decoder,
        task_ids=tasks,
        tasks=tuple(f"task {number}" for number in range(100)),
        dropped={},
        truncated=0,
        sha256="",
    )
    config = PlanConfig(
        1024, 256, _BATCH_SIZE.value, mixture="temperature", mixture_temperature=2.0
    )
    started = time.perf_counter()
    plan = PackingPlan(cache, config)
    planned = time.perf_counter() - started
    plan.rows_for_steps(0, 1)
    first_step = time.perf_counter() - started
    started, rows, examples = time.perf_counter(), 0, 0
    blocks = min(_BLOCKS.value, plan.block_count(0))
    for block in range(blocks):
        made = plan.block_rows(0, block)
        rows, examples = rows + len(made), examples + len(made.examples)
    # The first block was made before step 1.
    speed = examples / (time.perf_counter() - started + first_step - planned)
    last = rows // _BATCH_SIZE.value - 1
    plan.rows_for_steps(last, last + 1)
    bookmark, fill = plan.bookmark(last), plan.statistics(0)["encoder_fill"]
    del plan
    plan = PackingPlan(cache, config)
    started = time.perf_counter()
    plan.open_at(bookmark)
    plan.rows_for_steps(last, last + 1)
    found = time.perf_counter() - started
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    mapped = int(status["RssFile"].split()[0]) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(cache):>12,}{planned:>9.2f}{first_step:>9.2f}{speed:>14,.0f}"
        f"{fill:>9.1%}{found:>9.2f}{peak:>9.2f}{mapped:>9.2f}",
        flush=True,
    )


def planning_table() -> None:
    """A line for each number of examples, each of a process of its own."""
    print(
        f"{'examples':>12}{'plan':>9}{'step 1':>9}{'planned':>14}{'encoder':>9}{'resume':>9}"
        f"{'peak':>9}{'mapped':>9}\n{'':>12}{'s':>9}{'s':>9}{'examples/s':>14}{'fill':>9}{'s':>9}"
        f"{'GB':>9}{'GB':>9}",
        flush=True,
    )
    for examples in map(int, _PLANNING.value):
        with tempfile.TemporaryDirectory() as folder:
            write_offsets(Path(folder), examples)
            own = (f"--batch_size={_BATCH_SIZE.value}", f"--blocks={_BLOCKS.value}")
            subprocess.run([sys.executable, __file__, f"--planned={folder}", *own], check=True)


def describe_machine() -> str:
    """Processor, cores and the versions that matter."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    tensorflow = "tensorflow-cpu" if sys.platform == "linux" else "tensorflow"
    versions = f"numpy {np.__version__}, {tensorflow} {version(tensorflow)}"
    return f"{processor}; Python {platform.python_version()}, {versions}"


def main(_: list[str]) -> None:
    """Print a table for each setting, or that of planning."""
    if _PLANNED.value:
        measure_planning(Path(_PLANNED.value))
        return
    print(describe_machine())
    if _PLANNING.value:
        planning_table()
        return
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
