"""The launch scripts: what they would call, and two real local processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.model_folder import load_model

LAUNCH = Path(__file__).parents[2] / "launch"


def call(script: str, *arguments: str, environment=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("create", "--type=v4-8", "--version=base"), "tpu-vm create t --zone=z --accelerator-ty"),
        (("setup",), "tpu-vm scp"),
        (("run", "--", "--config=a.py"), "instructrec_jax.train --distributed --config=a.py"),
        (("logs",), "train.log logs/t/worker-0.log"),
        (("delete",), "tpu-vm delete t --zone=z --quiet"),
    ],
)
def test_tpu_vm_prints_every_call(arguments, expected):
    action, *rest = arguments
    done = call("tpu_vm.sh", action, "--name=t", "--zone=z", "--dry_run", *rest)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("start",), "the first word must be"),
        (("delete", "--zone=z"), "--name=NAME"),
        (("run", "--name=t", "--zone=z", "--dry_run"), "no options for train"),
        (("create", "--name=t", "--zone=z", "--dry_run"), "--type=TYPE"),
        (("delete", "--name=t", "--zone=z", "--colour=red"), "unknown option --colour=red"),
    ],
)
def test_tpu_vm_refuses_what_it_cannot_do(arguments, words):
    done = call("tpu_vm.sh", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_local_processes_prints_every_call():
    done = call("local_processes.sh", "--processes=3", "--dry_run", "--", "--config=a.py")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "JAX_PROCESS_ID=2" in lines[2]
    assert "instructrec_jax.train --distributed --config=a.py" in lines[2]


def test_two_processes_train_and_checkpoint_together(tmp_path):
    dataset = tmp_path / "own.jsonl"
    with dataset.open("w") as lines:
        for n in range(100):
            record = {"instruction": "Double it.", "input": str(n), "output": str(2 * n)}
            lines.write(json.dumps(record) + "\n")
    settings = {
        "train.steps": 6,
        "train.batch_size": 16,
        "train.log_every": 1,
        "train.trackers": "()",
        "data.encoder_length": 32,
        "data.decoder_length": 16,
        "tokenizer.vocabulary_size": 340,
        "tokenizer.sentinels": 10,
        "checkpoint.every": 6,
        "evaluate.every": 6,
        "evaluate.samples": 1,
        "evaluate.max_new_tokens": 2,
    }
    options = [
        "--config=configs/tiny.py",
        f"--dataset={dataset}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]
    # The script calls `python`; the test's own must be it.
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    port = 20_000 + os.getpid() % 20_000
    together = call(
        "local_processes.sh",
        f"--port={port}",
        "--",
        *options,
        "--config.mesh.fsdp=4",
        f"--workdir={tmp_path / 'two'}",
        environment={"PATH": f"{binaries}:{os.environ['PATH']}"},
    )
    assert together.returncode == 0, together.stderr
    assert "8 cpu device(s), 2 process(es)" in together.stderr

    alone = subprocess.run(
        [
            sys.executable,
            "-m",
            "instructrec_jax.train",
            *options,
            f"--workdir={tmp_path / 'one'}",
        ],
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr

    def losses(name: str) -> list[float]:
        records = map(json.loads, (tmp_path / name / "metrics.jsonl").open())
        return [record["loss"] for record in records if record["kind"] == "train"]

    assert losses("two") == pytest.approx(losses("one"), rel=1e-3)
    model = load_model(tmp_path / "two")
    assert model.step == 6
    assert fingerprint(model.params)
    shutil.rmtree(tmp_path / "two")
