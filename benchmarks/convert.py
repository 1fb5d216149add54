"""Conversion: time and peak memory in both directions, against the size of the model.

    python benchmarks/convert.py --architecture=t5_1_1_large --dtype=bfloat16

A Hugging Face folder of random weights is made in the shape of an architecture, converted with
`--to=orbax` and back with `--to=hf`, each in a process of its own, and the tensors that come back
are compared byte for byte. Memory is the peak resident set that the kernel counted for the process;
a dry run shows what Python and its libraries take without any weights. The disk must have room for
the model three times; the folders are removed at the end.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import app, flags

from instructrec_jax.data.tokenizer import byte_tokenizer
from instructrec_jax.model.config import t5_config
from instructrec_jax.model.families import ARCHITECTURES
from instructrec_jax.model.hugging_face import entries
from instructrec_jax.model.hugging_face_config import config_to_json
from instructrec_jax.model.weight_files import TensorInfo, WeightFiles, WeightWriter, write_json

_ARCHITECTURE = flags.DEFINE_string("architecture", "t5_1_1_large", "Whose shapes the model has.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16", "float16"], "Its numbers.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to work; by default the temporary folder.")

_SHARD_SIZE = 2 * 10**9


def write_random_model(folder: Path, architecture: str, dtype: np.dtype) -> int:
    """A Hugging Face folder of random weights, written a tensor at a time; its bytes."""
    rows = ARCHITECTURES[architecture].vocabulary.rows
    config = t5_config(architecture, vocabulary_size=rows)
    tensors = [
        TensorInfo(name, entry.shape, dtype) for entry in entries(config) for name in entry.names
    ]
    random = np.random.default_rng(0)
    block = (0.05 * random.standard_normal(2**24, dtype=np.float32)).astype(dtype)
    folder.mkdir()
    with WeightWriter(folder, tensors, max_shard_size=_SHARD_SIZE) as writer:
        for number, tensor in enumerate(tensors):
            size = int(np.prod(tensor.shape))
            writer.write(np.resize(np.roll(block, number), size).reshape(tensor.shape))
        writer.finish()
    write_json(folder / "config.json", config_to_json(config, dtype=dtype.name))
    for name, content in byte_tokenizer().hugging_face_files().items():
        (folder / name).write_bytes(content)
    return sum(tensor.size_bytes for tensor in tensors)


def measured(source: Path, target: Path, *options: str) -> tuple[float, int]:
    """Seconds and peak bytes of one run of the convert binary."""
    arguments = [f"--source={source}", f"--target={target}", *options]
    command = [sys.executable, "-m", "instructrec_jax.convert", *arguments]
    started = time.monotonic()
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdout=words, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            raise RuntimeError(words.read().decode(errors="replace")[-2000:])
    return time.monotonic() - started, usage.ru_maxrss * 1024


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two folders hold the same bytes under the same names."""
    first, second = WeightFiles(left), WeightFiles(right)
    return first.dtypes == second.dtypes and all(
        first.read(name).tobytes() == second.read(name).tobytes() for name in first.shapes
    )


def main(_: list[str]) -> None:
    """The benchmark."""
    dtype = jnp.dtype(_DTYPE.value)
    work = Path(tempfile.mkdtemp(prefix="convert-", dir=_FOLDER.value))
    try:
        size = write_random_model(work / "source", _ARCHITECTURE.value, dtype)
        print(f"{_ARCHITECTURE.value}, {dtype.name}: {size / 1e9:.2f} GB of weights")
        print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
        print(f"{'':28}{'seconds':>8}{'peak GB':>9}{'of model':>10}")
        runs = (
            ("nothing (dry run)", "source", "none", "--to=orbax", "--dry_run"),
            ("Hugging Face -> Orbax", "source", "orbax", "--to=orbax"),
            ("Orbax -> Hugging Face", "orbax", "again", "--to=hf"),
        )
        for name, source, target, *options in runs:
            seconds, peak = measured(work / source, work / target, *options)
            print(f"{name:28}{seconds:8.1f}{peak / 1e9:9.2f}{peak / size:10.2f}", flush=True)
        same = same_tensors(work / "source", work / "again")
        print(f"tensors that came back: {'the same bytes' if same else 'DIFFERENT'}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    app.run(main)
