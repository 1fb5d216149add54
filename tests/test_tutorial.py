"""Every block of the tutorial is run, in its order, in an empty folder.

Training is checked by the page's own --dry_run; what comes after it runs on an untrained model.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import write_dataset, write_run

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs" / "tutorial_own_corpus.md"
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """(language, file name or "", contents) of each block of the page."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def commands(shell):
    """The commands of a block, each on one line."""
    return [line for line in shell.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def reader(tmp_path):
    """reader(command) runs it as the reader of the page would, with a time limit."""
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
    }

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    return run


def test_the_tutorial_runs_from_its_first_block_to_its_last(tmp_path, reader):
    ran = []
    for language, name, contents in blocks():
        if name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(contents, encoding="utf-8")
            continue
        assert language == "sh"
        for command in commands(contents):
            if "instructrec_jax.train" in command and "--dry_run" not in command:
                # The same command, its model left untrained.
                assert command.split() == [part for part in ran[-1].split() if part != "--dry_run"]
                shutil.rmtree(tmp_path / "runs/recipes", ignore_errors=True)
                write_run(tmp_path / "runs/recipes", write_dataset(tmp_path / "untrained.jsonl"))
            elif not command.startswith(". "):
                reader(command)
            if command == "python build_recipes.py":
                assert "is there already, built by the same recipe" in reader(command)
            ran.append(command)
    info = json.loads((tmp_path / "datasets/recipe_tasks/dataset.json").read_text())
    assert info["tasks"]["list_ingredients"]["examples"]["train"][""] > 100
    assert info["tasks"]["list_ingredients"]["examples"]["test"]["phrasing"] > 20
    assert (tmp_path / "runs/recipes/evaluation/report.html").is_file()


def test_the_page_names_files_that_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target
    for name in re.findall(r"`((?:configs|instructrec_jax)/[\w/.]+)`", PAGE.read_text()):
        assert (REPOSITORY / name).exists(), name
