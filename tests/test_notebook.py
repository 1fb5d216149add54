"""The notebook runs from its first cell to its last on a tiny run, and is committed empty."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_model import write_dataset, write_run

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_evaluate_notebook(tmp_path, monkeypatch):
    dataset = write_dataset(tmp_path / "data.jsonl")
    run = write_run(tmp_path / "run", dataset)
    monkeypatch.setenv("INSTRUCTREC_RUN", str(run))
    monkeypatch.setenv("INSTRUCTREC_DATASET", str(dataset))
    one_device = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    monkeypatch.setenv("XLA_FLAGS", one_device)
    path = next(path for path in NOTEBOOKS if path.name == "evaluate.ipynb")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()

    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    words = "".join(output.text for output in outputs if output.output_type == "stream")
    # The loss, one of bars for each of two hold-outs, sensitivity, calibration and the lengths.
    assert len(pictures) == 6
    assert "8 examples; on all their hold-outs above every floor: 0 of 2 tasks, 0 of them" in words
    assert "WORST" in words
    assert "chinese" in words
    assert "answer:" in words
    assert "over all tasks: " in words and "tasks it follows in" in words
    assert "another task's" in words
    assert "expected calibration error" in words
    assert "target tokens:" in words
    assert "stopped by" in words
    assert (run / "evaluation" / "report.html").is_file()
