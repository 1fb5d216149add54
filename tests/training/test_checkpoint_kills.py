"""A run that is killed at random moments ends as if nothing had happened, bit by bit."""

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "random_kills.py"


def test_kills_at_random_moments_change_nothing():
    options = ("--kills=3", "--steps=8", "--seconds=4", "--samples=0", "--seed=3")
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options],
        env={**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "3 kills, " in done.stdout and "all equal" in done.stdout
