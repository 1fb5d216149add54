"""Two processes that begin as one: what one of them finds wrong ends both."""

import os
import socket
import subprocess
import sys

# Results go to a file each: Gloo writes lines of its own to stdout, at any moment.
PROGRAM = """
import sys
import jax
from pathlib import Path
from instructrec_jax.errors import ConfigError, UserError
from instructrec_jax.training.processes import check_all_processes, join_processes

def look():
    if jax.process_index() == wrong:
        raise ConfigError("its own problem")

join_processes()
said = []
for wrong in (None, 1):
    try:
        check_all_processes(look)
        said.append("all well")
    except UserError as error:
        said.append(str(error))
Path(sys.argv[1], str(jax.process_index())).write_text("\\n".join(said))
"""


def test_what_one_process_finds_wrong_ends_all(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        **{"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"},
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env={**environment, "JAX_PROCESS_ID": str(index)},
        )
        for index in (0, 1)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = ((tmp_path / str(index)).read_text().splitlines() for index in (0, 1))
    assert first[0] == second[0] == "all well"
    assert first[1].startswith("process 1 of this run cannot begin and says why")
    assert second[1] == "its own problem"
