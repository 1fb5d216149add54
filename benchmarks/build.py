"""Builds of 10,000, 100,000 and more raw documents: examples a second, and memory.

    python benchmarks/build.py [--documents=10000,100000] [--processes=2] [--tasks=write_title,...]

CPU only; 10,000 documents take about a minute on two quiet cores, 1,000,000 two hours with all
tasks and less with few. The corpus is made by a fixed seed: records with a title and 40 to 260
words of prose drawn by Zipf's law, of which 1 % are exact copies, 3 % near copies (one word in
forty differs) and 1 % hold an e-mail address or a key. All tasks of records or the given ones, all
filters; a byte tokenizer, so that no training of a tokenizer is timed.

Printed for each size: documents, drafts and examples, seconds, examples a second of one core (CPU
seconds of all processes), and the largest resident set of the process that starts the others and
of any worker; compressed size of the dataset's files.
"""

import json
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from absl import app, flags

from instructrec_jax.configuration import load_config
from instructrec_jax.instructions.building import build_from_config

_DOCUMENTS = flags.DEFINE_list("documents", ["10000", "100000"], "Numbers of raw documents.")
_PROCESSES = flags.DEFINE_integer("processes", 2, "Worker processes.")
_TASKS = flags.DEFINE_list("tasks", [], "Tasks to make drafts of; none = all.")
_CHILD = flags.DEFINE_string("child", "", "Folder of one measurement; set by this program.")

_REPOSITORY = Path(__file__).resolve().parent.parent
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
_CONNECTIVES = ("because", "therefore", "however", "although", "while", "and", "which", "after")


def records(count: int) -> Iterator[dict[str, str]]:
    """Records of prose without meaning, with planted copies, addresses and keys."""
    chosen = random.Random(0)
    words = ["".join(chosen.choices(_SYLLABLES, k=chosen.randint(1, 4))) for _ in range(30_000)]
    ranks = list(accumulate(1 / (rank + 8) for rank in range(len(words))))
    last: list[str] = []
    for number in range(count):
        kind = chosen.random()
        text = chosen.choices(words, cum_weights=ranks, k=chosen.randint(40, 260))
        if last and kind < 0.01:
            text = last
        elif last and kind < 0.04:
            text = [chosen.choice(words) if chosen.random() < 0.025 else word for word in last]
        last = text
        prose = _sentences(text, chosen)
        if kind > 0.99:
            prose += f" Write to {text[0]}.{text[1]}@{text[2]}.org with AKIA{number:016d}."
        title = " ".join(chosen.choices(text, k=5)).capitalize()
        yield {"title": title, "text": prose}


def _sentences(words: list[str], chosen: random.Random) -> str:
    made = []
    for start in range(0, len(words), 12):
        part = list(words[start : start + 12])
        part.insert(len(part) // 2, _CONNECTIVES[len(made) % len(_CONNECTIVES)])
        made.append(" ".join(part).capitalize() + ".")
    return " ".join(made)


def measure(folder: Path, processes: int, tasks: list[str]) -> None:
    """In a process of its own: build the corpus of the folder, and write down what it took."""
    overrides = {"build.processes": str(processes), "tokenizer.kind": "bytes"}
    config, _ = load_config(str(_REPOSITORY / "configs" / "base.py"), overrides)
    config.build.corpora = (
        {"name": "made", "reader": "records", "path": str(folder / "corpus.jsonl")},
    )
    config.build.sources = ("made",)
    config.build.tasks = tuple(tasks)
    config.build.holdout_tasks = ()
    config.build.max_examples_per_task = 0
    start = time.monotonic()
    build_from_config(config, folder / "dataset", lambda line: None)
    seconds = time.monotonic() - start
    info = json.loads((folder / "dataset" / "dataset.json").read_text())
    own, workers = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    result = {
        "documents": info["documents"],
        "drafts": info["funnel"]["drafts"],
        "examples": info["examples"]["total"],
        "rejected": info["rejected_by_reason"],
        "refused documents": info["sources"]["made"]["documents_refused"],
        "seconds": seconds,
        "cpu": own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime,
        "own": own.ru_maxrss / 1024,
        "worker": workers.ru_maxrss / 1024,
        "dataset": sum(f.stat().st_size for f in (folder / "dataset").glob("*.gz")) / 2**20,
    }
    (folder / "result.json").write_text(json.dumps(result))


def main(_: list[str]) -> None:
    """Print a row for each number of documents."""
    if _CHILD.value:
        measure(Path(_CHILD.value), _PROCESSES.value, _TASKS.value)
        return
    print(f"{platform.processor() or platform.machine()}, {_PROCESSES.value} processes")
    titles = (
        *("documents", "drafts", "examples", "seconds", "CPU seconds"),
        *("examples/s/core", "MiB", "MiB, worker", "MiB, dataset"),
    )
    print("".join(f"{title:>16}" for title in titles))
    for count in map(int, _DOCUMENTS.value):
        folder = Path(tempfile.mkdtemp(prefix="benchmark-build-"))
        try:
            with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records(count))
            child = [
                sys.executable,
                __file__,
                f"--child={folder}",
                f"--processes={_PROCESSES.value}",
                f"--tasks={','.join(_TASKS.value)}",
            ]
            subprocess.run(child, check=True)
            row = json.loads((folder / "result.json").read_text())
        finally:
            shutil.rmtree(folder)
        speed = row["examples"] / row["cpu"]
        counts = (row["documents"], row["drafts"], row["examples"])
        print("".join(f"{number:>16,}" for number in counts), end="")
        figures = (row["seconds"], row["cpu"], speed, row["own"], row["worker"], row["dataset"])
        print("".join(f"{number:>16.0f}" for number in figures))
        print(
            f"    refused documents {row['refused documents']}, drafts {row['rejected']}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
