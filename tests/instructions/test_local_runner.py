"""A build on disk, in processes: the same as in memory, and after being killed."""

import contextlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest
from memory_runner import run_in_memory

from instructrec_jax.instructions import local_runner, spool
from instructrec_jax.instructions.filters import FilterSettings
from instructrec_jax.instructions.local_runner import run_locally
from instructrec_jax.instructions.sources import line_files
from instructrec_jax.instructions.tally import Tally
from instructrec_jax.instructions.workers import StoppedError

CHANGES = {
    "sources": ("python_topics", "locale_names"),
    "languages": ("de",),
    "tasks": ("name_topic", "complete_passage", "translate_dates", "identify_language"),
    "max_documents_per_source": 90,
    "max_examples_per_task": 40,
    "filters": FilterSettings(rejects_written=0),
}


@contextlib.contextmanager
def no_bar(title, total):
    yield lambda steps: None


def run_here(recipe, folder, processes=1):
    (folder / "files").mkdir(parents=True, exist_ok=True)
    tally = run_locally(
        recipe, processes=processes, folder=folder, files=folder / "files",
        bar=no_bar, said=lambda source, part: None,
    )  # fmt: skip
    return tally, {path.name: path.read_bytes() for path in (folder / "files").iterdir()}


@pytest.fixture(scope="module")
def made(recipe):
    return recipe(**CHANGES)


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    return run_here(made, tmp_path_factory.mktemp("one"))


def test_files_and_counts_are_those_of_a_build_in_memory(recipe, tmp_path):
    made = recipe(**CHANGES | {"max_documents_per_source": 0, "sources": ("python_topics",)})
    tally, files = run_here(made, tmp_path)
    expected, written = run_in_memory(made)
    assert files == written and len(files) > 3
    assert tally.counts == expected.counts and tally.first == expected.first


def test_the_bound_on_documents_is_exact(finished):
    tally, _ = finished
    assert {key: tally.counts["documents", key] for key in CHANGES["sources"]} == {
        "python_topics": 90, "locale_names": 90,
    }  # fmt: skip


def test_three_processes_give_the_same(made, finished, tmp_path):
    assert run_here(made, tmp_path, processes=3) == finished


PROGRAM = """
import pickle, sys
from pathlib import Path
from test_local_runner import run_here
if __name__ == "__main__":
    run_here(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]), processes=2)
"""


def test_a_build_killed_at_any_moment_goes_on(made, finished, tmp_path):
    (tmp_path / "recipe").write_bytes(pickle.dumps(made))
    folder = tmp_path / "work"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    chosen = random.Random(4)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe"), str(folder)],
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        known = done(folder)
        deadline = time.monotonic() + 20
        while done(folder) <= known and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chosen.uniform(0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = {path: path.stat().st_mtime_ns for path in records(folder)}
    assert before
    tally, files = run_here(made, folder)
    assert (tally, files) == finished
    # What was finished was not done again.
    assert all(path.stat().st_mtime_ns == known for path, known in before.items())


def records(folder):
    names = [path for path in folder.glob("*-*") if not path.name.endswith(".tmp")]
    return [path for path in names if spool.finished(path)]


def done(folder):
    return len(records(folder)) if folder.exists() else 0


def test_a_damaged_record_file_is_no_finished_task(tmp_path):
    emissions = [("a", f"key {n}", n) for n in range(9000)]
    made = spool.write(
        tmp_path / "task", emissions, slices=4, files=tmp_path, tally=Tally()
    )  # fmt: skip
    assert spool.finished(tmp_path / "task").sizes == made.sizes and set(made.sizes) == {"a"}
    data = made.path.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], b"", b"x" * 100):
        made.path.write_bytes(damaged)
        assert spool.finished(made.path) is None
    assert spool.finished(tmp_path / "none") is None


@pytest.mark.parametrize("parts", [1, 2, 8, 64])
def test_records_come_back_once_however_files_and_parts_are_cut(tmp_path, monkeypatch, parts):
    # Blocks are written often, and parts are read in passes.
    monkeypatch.setattr(spool, "_BYTES_WAITING", 200_000)
    files = []
    for number, slices in enumerate((1, 4, 32)):
        emissions = [("a", f"key {n}", (number, n)) for n in range(0, 3000, number + 1)]
        path = tmp_path / f"task-{number}"
        tally = Tally()
        files.append(
            spool.write(path, emissions, slices=slices, files=tmp_path, tally=tally).path
        )  # fmt: skip
    found = []
    for part in spool.Part(0, 1).split(parts):
        groups = list(spool.groups(files, streams=("a", "b"), part=part, most=5_000))
        assert {spool.slice_of(key, parts) for key, _ in groups} <= {part.number}
        found += groups
    assert len(found) == len({key for key, _ in found}) == 3000
    for key, group in found:
        n = int(key.split()[1])
        assert group == {"a": [(k, n) for k in range(3) if n % (k + 1) == 0], "b": []}


def test_more_records_are_cut_finer():
    assert [spool.parts_for(size, 10) for size in (0, 1, 10, 11, 20, 21, 1000)] == [
        1, 1, 1, 2, 2, 4, 128,
    ]  # fmt: skip
    assert spool.slices_for(1 << 20) == spool.slices_for(0) == 64
    assert spool.slices_for(1 << 31) == 128 and spool.slices_for(1 << 35) == 2048


def test_a_reader_holds_a_bounded_share_of_the_records(tmp_path):
    """What is held when a part is read follows the bound, whatever the size of all."""
    most = 1 << 20
    peaks = []
    for count in (4_000, 16_000):
        emissions = (("a", f"key {n}", f"{n:01000d}") for n in range(count))
        path = tmp_path / f"task-{count}"
        made = spool.write(
            path, emissions, slices=spool.parts_for(1000 * count, most // 4), files=tmp_path,
            tally=Tally(),
        )  # fmt: skip
        tracemalloc.start()
        part = spool.Part(0, 1)
        total = sum(len(g["a"]) for _, g in spool.groups([made.path], streams=("a",), part=part,
                                                         most=most))  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == count
    assert max(peaks) < 2.5 * most


def test_keys_of_many_records_are_not_held_together(tmp_path, monkeypatch):
    """Such as the shards of a dataset: they fall into slices by chance, several into some."""
    monkeypatch.setattr(spool, "_BYTES_WAITING", 200_000)
    keys, size = [f"key {n}" for n in range(24)], 1_000_000
    emissions = ((key, f"{n:010000d}") for n in range(100) for key in keys)
    made = spool.write(
        tmp_path / "task", (("a", key, text) for key, text in emissions), slices=64,
        files=tmp_path, tally=Tally(),
    )  # fmt: skip
    tracemalloc.start()
    found = {}
    for key, group in spool.groups(
        [made.path], streams=("a",), part=spool.Part(0, 1), most=size // 2
    ):
        found[key] = len(group["a"])
        del group
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == dict.fromkeys(keys, 100) and peak < 3 * size


@pytest.mark.parametrize("processes", [1, 2])
def test_a_corpus_that_vanishes_in_mid_build_is_told_and_the_build_goes_on(
    recipe, tmp_path, monkeypatch, processes
):
    lines = [
        json.dumps({"title": f"On {n}", "text": f"Number {n} is a number."}) for n in range(99)
    ]
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("\n".join(lines))
    monkeypatch.setattr(line_files, "ROWS_BYTES", 50)
    made = recipe(
        sources=("mine",), tasks=("write_title", "write_from_title"), max_documents_per_source=0,
        corpora=({"name": "mine", "reader": "records", "path": str(corpus)},),
    )  # fmt: skip
    whole = run_here(made, tmp_path / "whole")
    gone = tmp_path / "gone"

    def take_away(tasks):
        for number, task in enumerate(tasks):
            if number == 3 and not gone.exists():
                corpus.rename(gone)
            yield task

    listed = local_runner._construct_tasks
    monkeypatch.setattr(local_runner, "_UNITS_OF_TASK", (2, 2))
    monkeypatch.setattr(
        local_runner, "_construct_tasks", lambda *arguments: take_away(listed(*arguments))
    )
    with pytest.raises(StoppedError, match=r"a\.jsonl: No such file.* run the same command again"):
        run_here(made, tmp_path / "work", processes=processes)
    gone.rename(corpus)
    gone.touch()
    assert run_here(made, tmp_path / "work", processes=processes) == whole
