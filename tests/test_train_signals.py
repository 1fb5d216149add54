"""The train binary under signals in its long phases, and under losses that are not finite."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import DivergedError
from instructrec_jax.train import train
from instructrec_jax.training.checks import check
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.model_folder import load_model

SETTINGS = {
    "train.steps": "3",
    "train.batch_size": "8",
    "train.log_every": "1",
    "train.trackers": "()",
    "data.encoder_length": "32",
    "data.decoder_length": "16",
    "tokenizer.kind": "bytes",
    "tokenizer.sentinels": "0",
    "checkpoint.every": "100",
    "evaluate.every": "100",
    "evaluate.examples": "0",
    "evaluate.samples": "0",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Few train examples of two tasks, and validation examples for many batches."""
    file = tmp_path_factory.mktemp("data") / "own.jsonl"
    words = ("red", "blue", "cat", "dog", "tree")
    with file.open("w") as lines:
        for n in range(500):
            text = f"{words[n % 5]} {words[n * n % 5]} {n}"
            record = {
                "id": f"example-{n}",
                "task": ("capitals", "words")[n % 2],
                "instruction": "In capitals.",
                "input": text,
                "target": text.upper(),
                "split": "train" if n < 60 else "validation",
            }
            lines.write(json.dumps(record) + "\n")
    return file


def command(dataset: Path, workdir: Path, **changes: str) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    binary = [sys.executable, "-m", "instructrec_jax.train", "--config=configs/tiny.py"]
    return [*binary, f"--dataset={dataset}", f"--workdir={workdir}", *overrides]


def signalled(words: str, arguments: list[str], number: signal.Signals) -> tuple[int, str]:
    """Sends a signal when a line of stderr holds `words`; returns exit code and all lines."""
    heard = []
    one_device = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "XLA_FLAGS": one_device}
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = threading.Timer(120, process.kill)
        deadline.start()
        assert process.stderr is not None
        for line in process.stderr:
            heard.append(line)
            if words in line:
                process.send_signal(number)
                words = "\0"
        process.wait()
        deadline.cancel()
    return process.returncode, "".join(heard)


def records(workdir: Path, kind: str) -> list[dict]:
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").open())
    return [record for record in lines if record["kind"] == kind]


def attempt(dataset: Path, workdir: Path, **changes: str) -> None:
    overrides = {**SETTINGS, "workdir": str(workdir), "dataset": str(dataset), **changes}
    config, origins = load_config("configs/tiny.py", overrides)
    check(config, device_count=jax.device_count())
    train(config, origins=origins, dry_run=False, stop=StopRequest())


def test_a_signal_in_evaluation_saves_and_the_evaluation_is_made_up_for(dataset, tmp_path, capfd):
    arguments = command(dataset, tmp_path)
    code, words = signalled("step 3/3", arguments, signal.SIGINT)
    assert code == 75, words
    assert "stopped by SIGINT after step 3; the state is saved" in words
    assert not records(tmp_path, "validation")
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")) == ["3"]
    # What the run said of itself until then.
    for part in ("FLOP/s", "data wait", "ETA", "time 0:", "train step "):
        assert part in words
    last = records(tmp_path, "train")[-1]
    assert set(last["tasks"]) == {"capitals", "words"}
    assert last["host_memory_peak"] > 1e8
    assert 0 < last["flops_per_second"] < 1e13

    # Fewer examples will do for the evaluation that is owed; the changed key is told.
    attempt(dataset, tmp_path, **{"evaluate.examples": "40"})
    said = capfd.readouterr().err
    assert "changed since the part before: evaluate.examples 0 -> 40" in said
    (validation,) = records(tmp_path, "validation")
    assert (validation["step"], validation["sequences"]) == (3, 40)
    assert set(validation["tasks"]) == {"capitals", "words"}
    former = json.loads((tmp_path / "config-3.json").read_text())
    assert former["config"]["evaluate"]["examples"] == 0
    parts = records(tmp_path, "part")
    assert [part["step"] for part in parts] == [0, 3]
    assert parts[1]["lost_seconds"] == 0


def test_a_signal_before_the_first_step_ends_with_the_code_for_starting_again(dataset, tmp_path):
    code, words = signalled("memory a device", command(dataset, tmp_path), signal.SIGTERM)
    assert code == 75, words
    assert "stopped by SIGTERM before a step was taken" in words
    assert "Traceback" not in words


def test_losses_that_are_not_finite_reach_no_parameter_and_name_their_examples(
    dataset, tmp_path, capsys
):
    changes = {
        "train.steps": "9",
        "train.max_nonfinite_steps": "3",
        "checkpoint.every": "1",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": "1e15",
        "optimizer.warmup_steps": "0",
        "optimizer.schedule": "constant",
    }
    with pytest.raises(DivergedError, match=r"3 steps in a row.*nonfinite.jsonl") as caught:
        attempt(dataset, tmp_path, **changes)
    assert caught.value.exit_code == 5
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").open()]
    assert [line["in_a_row"] for line in lines] == [1, 2, 3]
    norms = ("loss", "gradient_norm", "update_norm")
    wrong = [name for name in norms if not np.isfinite(float(lines[-1][name]))]
    assert wrong
    words = " and ".join(name.removesuffix("_norm") for name in wrong)
    assert f"gave a non-finite {words} (3 in a row): loss " in capsys.readouterr().err
    for line in lines:
        assert len(line["example_ids"]) >= 8
        assert all(0 <= int(name.removeprefix("example-")) < 60 for name in line["example_ids"])
    first_bad = lines[0]["step"]
    assert first_bad > 1
    # The last checkpoint is of the step before, and all its numbers are finite.
    steps = [int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert max(steps) == first_bad - 1
    for leaf in jax.tree.leaves(load_model(tmp_path).params):
        assert np.isfinite(leaf).all()
    assert len(records(tmp_path, "nonfinite")) == 3
