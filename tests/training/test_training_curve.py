import importlib.util
from pathlib import Path

import pytest

CURVE = Path(__file__).parents[2] / "benchmarks" / "training_curve.py"


def test_losses_are_those_of_torch_on_the_same_examples(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("training_curve", CURVE)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    steps = list(benchmark.curves(tmp_path, steps=5, rows=4, devices=1))
    assert len(steps) == 5
    for ours, theirs, examples in steps:
        # Packed: more examples than rows.
        assert examples > 4
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert steps[-1][0] < 0.8 * steps[0][0]
