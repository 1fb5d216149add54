"""Two processes that begin as one: what one of them finds wrong ends both."""

import os
import socket
import subprocess
import sys

PROGRAM = """
import jax
from instructrec_jax.errors import ConfigError, UserError
from instructrec_jax.training.processes import check_all_processes, join_processes

def look():
    if jax.process_index() == wrong:
        raise ConfigError("its own problem")

join_processes()
for wrong in (None, 1):
    try:
        check_all_processes(look)
        print("all well")
    except UserError as error:
        print(error)
"""


def test_what_one_process_finds_wrong_ends_all():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        **{"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"},
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        first, second = (
            process.communicate(timeout=120)[0].splitlines()[-2:]  # Gloo has a line of its own.
            for process in processes
        )
    finally:
        for process in processes:
            process.kill()
    assert first[0] == second[0] == "all well"
    assert first[1].startswith("process 1 of this run cannot begin and says why")
    assert second[1] == "its own problem"
