"""Kills a training run at random moments and compares what becomes of it with one left in peace.

    python benchmarks/random_kills.py --kills=20

Both runs train the same small model on the same examples with dropout, a moving average of the
parameters, validation, and a checkpoint every second step. One of them is killed (SIGKILL) again
and again: while it starts, in its steps, and in its saves, at moments that --seed draws; then it
goes on by the same command. A run that has come to its end goes on to a later last step in turn,
until all kills are done. Compared at the end, bit by bit: every leaf of the parameters, of their
average and of the optimizer's state, the position in the data, the losses of every step, the
samples.

Processes are forked from one that has imported everything, which makes a kill cost about a second;
what happens after the imports is `python -m instructrec_jax.train` itself. Exit code 0 where all is
equal. CPU only, one device.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of a small model are compiled faster than they are optimized, and shared by all runs.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags

from instructrec_jax import train
from instructrec_jax.command_line import run
from instructrec_jax.data import pipeline  # noqa: F401  (TensorFlow, before the forks)
from instructrec_jax.data.byte_tokenizer import ByteTokenizer
from instructrec_jax.model.config import padded_vocabulary_size, t5_config
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import read_metadata, save_model
from instructrec_jax.training.keeping import step_folders

_SETTINGS = {
    "model.name": "",
    "model.dropout_rate": "0.1",
    "train.batch_size": "4",
    "train.log_every": "1",
    "train.trackers": "()",
    "data.encoder_length": "24",
    "data.decoder_length": "12",
    "optimizer.name": "adamw",
    "optimizer.schedule": "constant",
    "optimizer.ema_decay": "0.9",
    "checkpoint.every": "2",
    "checkpoint.keep": "2",
    "checkpoint.keep_best": "1",
    "checkpoint.best_metric": "loss_per_token",
    "evaluate.every": "6",
    "evaluate.examples": "8",
    "evaluate.max_new_tokens": "2",
}
# Figures of a train line that do not depend on how fast the machine is.
_FIGURES = ("step", "loss", "loss_per_token", "accuracy", "gradient_norm", "learning_rate")


def write_examples(file: Path) -> Path:
    """Words to put into capitals."""
    words = ("red", "blue", "cat", "dog", "tree", "sky")
    with file.open("w", encoding="utf-8") as lines:
        for number in range(60):
            word = words[number % 6] + str(number)
            record = {"instruction": "Capitals:", "input": word, "output": word.upper()}
            lines.write(json.dumps(record) + "\n")
    return file


def write_model(folder: Path) -> None:
    """A model of one layer a side and bytes for a tokenizer, untrained, in a process of its own."""
    if process := os.fork():
        os.waitpid(process, 0)
        return
    tokenizer = ByteTokenizer(sentinels=5)
    config = t5_config(
        "tiny",
        vocabulary_size=padded_vocabulary_size(tokenizer.vocabulary_size),
        d_model=32,
        head_size=8,
        d_ff=48,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    save_model(
        folder,
        params=init_parameters(config, jax.random.key(0)),
        config=config,
        tokenizer=tokenizer,
        encoder_length=24,
        decoder_length=12,
    )
    os._exit(0)


def start(folder: Path, workdir: Path, *, steps: int) -> int:
    """Forks a process that trains to `steps`; its id. Its words go to WORKDIR.log."""
    process = os.fork()
    if process:
        return process
    log = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    overrides = [f"--config.{key}={value}" for key, value in _SETTINGS.items()]
    sys.argv = ["train", "--config=configs/tiny.py", f"--dataset={folder / 'examples.jsonl'}"]
    sys.argv += [f"--init={folder / 'model'}"]
    sys.argv += [f"--workdir={workdir}", f"--config.train.steps={steps}", *overrides]
    sys.argv += [f"--config.evaluate.samples={flags.FLAGS.samples}"]
    sys.argv += [f"--config.train.compile_cache={folder / 'compiled'}"]
    sys.argv += [f"--config.data.cache={workdir / 'tokens'}"]
    code = 1
    try:
        run(train.main, needs_config=True)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(process: int, workdir: Path) -> None:
    """Waits for a process that should end well."""
    _, status = os.waitpid(process, 0)
    if status != 0:
        print(Path(f"{workdir}.log").read_text()[-3000:])
        sys.exit(f"the run in {workdir} ended with status {status}")


def _unfinished(workdir: Path) -> bool:
    """Whether a checkpoint is being written now."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any("tmp" in child.name for child in folder.iterdir())


def _words(workdir: Path) -> str:
    log = Path(f"{workdir}.log")
    return log.read_text(encoding="utf-8") if log.exists() else ""


def _ended(process: int) -> bool:
    return os.waitpid(process, os.WNOHANG)[0] != 0


def kill_somewhere(process: int, workdir: Path, *, draw: random.Random, seconds: float) -> str:
    """Kills a process at a random moment of its life, which takes about `seconds`.

    Returns:
      Where it was hit, or "" where it came to its end before.
    """
    moment = time.monotonic() + draw.uniform(0.02, 1.0) * seconds
    in_save = draw.random() < 0.5
    saves_to_pass = draw.randrange(4)
    was_saving = False
    compiled_before = _words(workdir).count("train step ")
    while time.monotonic() < moment or in_save:
        if _ended(process):
            return ""
        saving = _unfinished(workdir)
        if in_save and saving and not was_saving:
            if saves_to_pass == 0:
                time.sleep(draw.uniform(0, 0.03))
                break
            saves_to_pass -= 1
        was_saving = saving
        time.sleep(0.001)
    where = "in a save" if _unfinished(workdir) else "in its steps"
    if _words(workdir).count("train step ") == compiled_before:
        where = "while it started"
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return where if os.WIFSIGNALED(status) else ""


def records(workdir: Path) -> list[list]:
    """What metrics.jsonl holds, but for times."""
    found = []
    for line in (workdir / "metrics.jsonl").open(encoding="utf-8"):
        record = json.loads(line)
        if record["kind"] == "train":
            found.append(["train", *(record[name] for name in _FIGURES)])
        elif record["kind"] == "validation":
            found.append(["validation", record["step"], record["loss_per_token"]])
    return found


def _arrays(folder: Path, item: str) -> list[np.ndarray]:
    with ocp.PyTreeCheckpointer() as checkpointer:
        return jax.tree.leaves(jax.device_get(checkpointer.restore((folder / item).absolute())))


def differences(left: Path, right: Path) -> list[str]:
    """What is not the same in two run folders; [] is what should come out."""
    problems = []
    steps = [step_folders(folder / "checkpoints") for folder in (left, right)]
    if list(steps[0]) != list(steps[1]):
        problems.append(f"steps {list(steps[0])} and {list(steps[1])}")
    folders = [found[max(found)] for found in steps]
    described = [read_metadata(folder) for folder in folders]
    for key in ("fingerprints", "identity", "model"):
        if described[0][key] != described[1][key]:
            problems.append(key)
    for item in described[0]["fingerprints"]:
        pairs = zip(*(_arrays(folder, item) for folder in folders), strict=True)
        for place, (one, other) in enumerate(pairs):
            if one.dtype != other.dtype or one.tobytes() != other.tobytes():
                problems.append(f"{item}, leaf {place}")
    if records(left) != records(right):
        problems.append("metrics.jsonl")
    for name in ("samples.jsonl", "checkpoints/validation.json"):
        if (left / name).read_bytes() != (right / name).read_bytes():
            problems.append(name)
    if list(right.rglob("*.damaged*")):
        problems.append("a step was set aside as damaged")
    return problems


def main() -> None:
    """Kills, goes on, compares; prints one line a kill."""
    values = flags.FLAGS
    draw = random.Random(values.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_examples(folder / "examples.jsonl")
        write_model(folder / "model")
        peaceful, killed = folder / "peaceful", folder / "killed"
        steps = values.steps
        finish(start(folder, peaceful, steps=steps), peaceful)
        seconds = values.seconds
        kills = 0
        while kills < values.kills:
            process = start(folder, killed, steps=steps)
            where = kill_somewhere(process, killed, draw=draw, seconds=seconds)
            if where:
                kills += 1
                saved = max(step_folders(killed / "checkpoints"), default=0)
                print(f"kill {kills}: {where}; newest checkpoint {saved}", flush=True)
                continue
            # It came to its end: both go on to a later one.
            steps += values.steps
            began = time.monotonic()
            finish(start(folder, peaceful, steps=steps), peaceful)
            # Now that all is compiled: so long does a run take that is left in peace.
            seconds = time.monotonic() - began
        finish(start(folder, killed, steps=steps), killed)
        problems = differences(peaceful, killed)
        if problems:
            print(Path(f"{killed}.log").read_text()[-6000:])
            sys.exit(f"after {kills} kills these differ: {'; '.join(problems)}")
        arrays = sum(len(sums) for sums in _fingerprints(killed).values())
        print(
            f"{kills} kills, {steps} steps: all equal ({arrays} arrays, {len(records(killed))} "
            "lines of metrics, samples, position in the data)"
        )


def _fingerprints(workdir: Path) -> dict[str, dict[str, int]]:
    found = step_folders(workdir / "checkpoints")
    return read_metadata(found[max(found)])["fingerprints"]


if __name__ == "__main__":
    flags.DEFINE_integer("kills", 20, "Kills before the comparison.")
    flags.DEFINE_integer("seed", 0, "Draws the moments.")
    flags.DEFINE_integer("steps", 24, "Steps of the run; once at its end, it gets as many more.")
    flags.DEFINE_integer("samples", 1, "Examples that are decoded at each evaluation.")
    flags.DEFINE_float("seconds", 4.0, "About as long as a run takes once all is compiled.")
    run(main, needs_config=False)
