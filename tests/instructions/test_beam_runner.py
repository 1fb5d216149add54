"""The same dataset from Apache Beam's local runner."""

import pytest
from test_local_runner import CHANGES, run_here

pytest.importorskip("apache_beam")

from instructrec_jax.instructions.beam_runner import run_on_beam


@pytest.mark.parametrize("bound", [0, 60])
def test_files_and_counts_are_those_of_the_local_runner(recipe, tmp_path, bound):
    changes = {"sources": ("python_topics",), "tasks": ("name_topic", "complete_passage")}
    made = recipe(**CHANGES | changes | {"max_documents_per_source": bound})
    tally, files = run_here(made, tmp_path / "local")
    folder = tmp_path / "beam" / "files"
    folder.mkdir(parents=True)
    counted = run_on_beam(made, options=(), folder=tmp_path / "beam", files=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert counted.counts == tally.counts and counted.first == tally.first
