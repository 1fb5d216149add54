"""The launch scripts: what they would call, and two real local processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import write_dataset, write_run

from instructrec_jax.configuration import load_config
from instructrec_jax.train import train
from instructrec_jax.training.checkpoint import read_metadata
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.keeping import step_folders
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


SETTINGS = {
    "model.name": "",
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.trackers": "()",
    "data.encoder_length": 24,
    "data.decoder_length": 12,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "checkpoint.every": 2,
    "checkpoint.keep": 1000,
    "evaluate.every": 0,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("model")
    dataset = write_dataset(folder / "sums.jsonl")
    model = write_run(folder / "run", dataset)
    overrides = (f"--config.{key}={value}" for key, value in SETTINGS.items())
    return ["--config=configs/tiny.py", f"--dataset={dataset}", f"--init={model}", *overrides]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The script calls `python`; the tests' own must be it. Compiled functions are shared."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def losses(workdir: Path) -> dict[int, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").open())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def process_of(index: int, parent: int) -> int:
    """The process JAX_PROCESS_ID=index that a launch script has started."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"JAX_PROCESS_ID={index}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError("the process is not there")


def launch(options, workdir: Path, *more: str) -> list[str]:
    script = ["bash", str(LAUNCH / "local_processes.sh"), f"--port={20_000 + os.getpid() % 20_000}"]
    return [*script, "--grace=3", "--", *options, f"--workdir={workdir}", *more]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a process in /proc")
def test_two_processes_of_which_one_is_killed_go_on_together_and_alone(
    options, environment, tmp_path
):
    two, checkpoints = tmp_path / "two", tmp_path / "two" / "checkpoints"
    sizes = "--config.mesh.fsdp=4"
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        launch(options, two, sizes, "--config.train.steps=100000"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        while script.poll() is None and not (checkpoints / "4").exists():
            time.sleep(0.02)
        assert script.poll() is None, script.communicate()[1]
        os.kill(process_of(1, script.pid), signal.SIGKILL)
        words = script.communicate(timeout=60)[1]
    # The other process waits for figures that never come; it is ended.
    assert script.returncode not in (0, 75), words
    assert "8 cpu device(s), 2 process(es)" in words
    assert "error: a process of the run ended with code" in words
    assert "The same command goes on from the newest checkpoint" in words

    # Uninterrupted up to step 4: what was killed must come to the same from step 2.
    shutil.copytree(checkpoints / "4", tmp_path / "4")
    before, expected = losses(two), read_metadata(tmp_path / "4")
    for step in map(int, step_folders(checkpoints)):
        if step > 2:
            shutil.rmtree(checkpoints / str(step))
    shutil.copytree(two, tmp_path / "alone")
    together = subprocess.run(
        launch(options, two, sizes, "--config.train.steps=4"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert together.returncode == 0, together.stderr
    assert "going on from step 2" in together.stderr
    assert losses(two) == {step: before[step] for step in (1, 2, 3, 4)}
    found = read_metadata(checkpoints / "4")
    assert found["fingerprints"] == expected["fingerprints"]
    assert found["identity"] == expected["identity"]

    # Saved by two processes, restored by one, on another mesh.
    values = {key: str(value) for key, value in SETTINGS.items()}
    values |= dict(option[2:].split("=", 1) for option in options[1:3])
    values |= {"mesh.data": "2", "mesh.tensor": "4", "train.steps": "4"}
    config, origins = load_config("configs/tiny.py", {**values, "workdir": str(tmp_path / "alone")})
    train(config, origins=origins, dry_run=False, stop=StopRequest())
    assert losses(tmp_path / "alone") == pytest.approx(losses(two), rel=1e-4)
    assert load_model(tmp_path / "alone").step == 4
