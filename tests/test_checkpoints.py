"""The checkpoints binary as a user runs it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import write_dataset, write_run

from instructrec_jax.training.model_folder import load_model


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    binary = [sys.executable, "-m", "instructrec_jax.checkpoints", *arguments]
    return subprocess.run(binary, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run with steps 20 and 30, of which 20 is the best, and its files are damaged."""
    root = tmp_path_factory.mktemp("run")
    folder = write_run(root / "run", write_dataset(root / "sums.jsonl"))
    steps = folder / "checkpoints"
    shutil.copytree(steps / "30", steps / "20")
    figures = {"20": {"loss_per_token": 2.5}, "30": {"loss_per_token": 3.25}}
    best = {"metric": "loss_per_token", "step": 20, "value": 2.5}
    (steps / "validation.json").write_text(json.dumps({"figures": figures, "best": best}))
    for file in (steps / "20" / "parameters" / "d").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 8
        file.write_bytes(data)
    return folder


def test_list_verify_export_and_prune(folder, tmp_path):
    listed = call("list", str(folder), "--verify")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert lines[0].split() == ["step", "written", "size", "validation", "state"]
    assert "loss_per_token 2.5" in lines[1] and "damaged: " in lines[1]
    assert lines[1].endswith("best") and "verified, " in lines[2]

    verified = call("verify", f"--run={folder}")
    assert verified.returncode == 4
    assert verified.stderr.splitlines()[-1].endswith("checkpoints: 1 damaged: 20")
    assert "Traceback" not in verified.stderr
    assert len(verified.stderr.splitlines()) == 3, verified.stderr

    exported = call("export", str(folder), "newest", f"--target={tmp_path / 'model'}")
    assert exported.returncode == 0, exported.stderr
    assert not (tmp_path / "model" / "optimizer").exists()
    assert load_model(tmp_path / "model").step == 30

    pruned = call("prune", str(folder), "--keep=1", "--dry_run")
    assert pruned.returncode == 0, pruned.stderr
    # The best one stays.
    assert "would remove 0 checkpoint(s)" in pruned.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("lsit", "runs/demo"), 2, "did you mean 'list'"),
        (("export", "{run}", "25", "--target=x"), 4, "has no step 25; there are 20, 30"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, arguments, code, words):
    done = call(*(word.format(run=folder) for word in arguments))
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert words in done.stderr
