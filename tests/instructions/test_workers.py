import os
import time

import pytest

from instructrec_jax.instructions.workers import Workers

UNITS = [("string.py",), ("heapq.py",), ("keyword.py",), ("colorsys.py",), ("bisect.py",)]


def constructed(recipe, processes, units=UNITS):
    with Workers(recipe, processes=processes) as workers:
        return [item for batch in workers.construct("python_code", units) for item in batch]


def test_the_number_of_processes_changes_nothing(recipe):
    made = recipe(tasks=("find_bug", "predict_output", "list_parameters"))
    here = constructed(made, 1)
    assert sum(len(item.candidates) for item in here) > 50
    assert constructed(made, 3) == here


def test_the_bound_on_documents_is_exact(recipe):
    made = recipe(tasks=("list_parameters",), max_documents_per_source=7)
    assert len(constructed(made, 1)) == 7
    assert constructed(made, 2) == constructed(made, 1)


def test_a_workers_error_comes_back(recipe):
    with pytest.raises(FileNotFoundError):
        constructed(recipe(), 2, units=[("no_such_file.py",)])


def test_a_dead_worker_is_told(recipe):
    with Workers(recipe(tasks=("list_parameters",)), processes=2) as workers:
        list(workers.construct("python_code", UNITS))
        for worker in workers._processes:
            worker._process.kill()
        with pytest.raises(RuntimeError, match="the worker process died at python_code"):
            list(workers.construct("python_code", UNITS))


def test_no_process_is_left(recipe):
    with Workers(recipe(tasks=("list_parameters",)), processes=2) as workers:
        list(workers.construct("python_code", UNITS))
        numbers = [worker._process.pid for worker in workers._processes]
    time.sleep(0.01)
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
