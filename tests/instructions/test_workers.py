import os
import time
from dataclasses import dataclass

import pytest

from instructrec_jax.instructions.construct import construct_unit
from instructrec_jax.instructions.workers import StoppedError, Workers

UNITS = [("string.py",), ("heapq.py",), ("keyword.py",), ("colorsys.py",), ("bisect.py",)]


@dataclass(frozen=True)
class Constructed:
    """A task that gives the drafts of a unit."""

    unit: tuple

    def perform(self, run):
        return construct_unit("python_code", self.unit, recipe=run.recipe, context=run.context)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    # A worker finds this module as a task's class by its name.
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def constructed(recipe, processes, units=UNITS):
    with Workers(recipe, processes=processes) as workers:
        tasks = [Constructed(unit) for unit in units]
        return [item for _, batch in workers.perform(tasks) for item in batch]


def test_the_number_of_processes_changes_nothing(recipe):
    made = recipe(tasks=("find_bug", "list_parameters"))
    here = constructed(made, 1)
    assert sum(len(item.candidates) for item in here) > 50
    assert constructed(made, 2) == here


def test_a_workers_error_comes_back(recipe):
    with pytest.raises(FileNotFoundError):
        constructed(recipe(tasks=("list_parameters",)), 2, units=[("no_such_file.py",)])


def test_a_dead_worker_is_told(recipe):
    tasks = [Constructed(unit) for unit in UNITS]
    with Workers(recipe(tasks=("list_parameters",)), processes=2) as workers:
        list(workers.perform(tasks))
        for worker in workers._processes:
            worker._process.kill()
        with pytest.raises(StoppedError, match="name fewer build.processes; what is done"):
            list(workers.perform(tasks))


def test_no_process_is_left(recipe):
    with Workers(recipe(tasks=("list_parameters",)), processes=2) as workers:
        list(workers.perform([Constructed(unit) for unit in UNITS]))
        numbers = [worker._process.pid for worker in workers._processes]
    time.sleep(0.01)
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
