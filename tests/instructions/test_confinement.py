"""What the operating system refuses to a confined process, without any help of Python's guard."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from instructrec_jax.instructions import confinement, execution
from instructrec_jax.instructions.execution import Sandbox

PACKAGE_PARENT = Path(confinement.__file__).parents[2]
IS_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
linux_only = pytest.mark.skipif(not IS_LINUX, reason="system calls are filtered on Linux alone")

# A confined child tries everything, natively too, and tells what came of it.
PROGRAM = """
import ctypes, json, os, resource, select, shutil, signal, socket, subprocess, sys, threading, time
import gc
from instructrec_jax.instructions.confinement import Confinement

victim, port = sys.argv[1], int(sys.argv[2])
library = ctypes.CDLL(None, use_errno=True)

def native(name, *arguments):
    if getattr(library, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def connect():
    socket.socket().connect(("127.0.0.1", port))

attempts = {
    "read": lambda: open("/etc/passwd").read(),
    "write": lambda: open(victim, "w"),
    "create": lambda: open(victim + ".new", "w"),
    "remove": lambda: os.remove(victim),
    "rmtree": lambda: shutil.rmtree(os.path.dirname(victim)),
    "rename": lambda: os.rename(victim, victim + ".new"),
    "list": lambda: os.listdir("/"),
    "chmod": lambda: os.chmod(victim, 0),
    "pipe": lambda: os.pipe(),
    "fork": lambda: os.fork(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "subprocess": lambda: subprocess.run(["touch", victim + ".new"]),
    "thread": lambda: threading.Thread(target=print).start(),
    "kill": lambda: os.kill(os.getppid(), signal.SIGTERM),
    "alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 9),
    "timer": lambda: signal.setitimer(signal.ITIMER_PROF, 0),
    "handler": lambda: signal.signal(signal.SIGPROF, signal.SIG_IGN),
    "limits": lambda: resource.setrlimit(resource.RLIMIT_CPU, (9, 9)),
    "connect": connect,
    "stdout": lambda: os.write(1, b"forged"),
    "other descriptor": lambda: os.write(7, b"forged"),
    "sleep": lambda: time.sleep(9),
    "native open": lambda: native("open", victim.encode(), 1025, 0o600),
    "native unlink": lambda: native("unlink", victim.encode()),
    "native fork": lambda: native("fork"),
    "native socket": lambda: native("socket", 2, 1, 0),
    "native prctl": lambda: native("prctl", 1, 0, 0, 0, 0),
    "native chroot": lambda: native("chroot", b".."),
    "compute": lambda: sum(range(100_000)),
    "memory": lambda: bytearray(1 << 22),
    "collect": gc.collect,
}
guard = Confinement()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    guard.apply(answers=write, seconds=5.0, mebibytes=512)
    told = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            told[name] = "done"
        except (OSError, RuntimeError, ValueError):
            told[name] = "refused"
        except BaseException as error:
            told[name] = repr(error)
    os.write(write, json.dumps(told).encode())
    os._exit(0)
os.close(write)
print(json.dumps([guard.means, json.loads(os.read(read, 1 << 16))]))
"""


@linux_only
def test_a_confined_process_can_do_nothing_but_compute_and_answer(tmp_path):
    victim = tmp_path / "canary"
    victim.write_text("alive")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(victim), "9"],
        capture_output=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    means, told = json.loads(done.stdout)
    assert "system_calls" in means
    harmless = {"compute", "memory", "collect"}
    assert {name for name, result in told.items() if result == "done"} == harmless
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert victim.read_text() == "alive"


@linux_only
def test_the_sandbox_says_what_confines_it():
    with Sandbox() as box:
        assert "system_calls" in box.means()
        assert set(box.means()) <= {"system_calls", "namespaces", "empty_root"}


def test_without_the_filter_it_is_said_and_the_guard_in_python_stands(tmp_path, monkeypatch):
    without = (
        "from instructrec_jax.instructions import confinement; confinement._MACHINES.clear(); "
    )
    place = "from instructrec_jax.instructions import sandbox"
    program = execution._PROGRAM.replace(place, without + place)
    monkeypatch.setattr(execution, "_PROGRAM", program)
    victim = tmp_path / "canary"
    victim.write_text("alive")
    escape = (
        "def f(action):\n"
        "    sys = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "
        "'_wrap_close'][0].__init__.__globals__['sys']\n"
        "    os, builtins = sys.modules['os'], sys.modules['builtins']\n"
        "    return [lambda: builtins.open({0!r}, 'w'), lambda: os.remove({0!r}), "
        "lambda: os.fork(), lambda: sys.modules['ctypes'].CDLL('libc.so.6'), "
        "lambda: sum(range(10 ** 13)), lambda: action][action]()\n"
    ).format(str(victim))
    with Sandbox(seconds=0.5) as box, pytest.warns(RuntimeWarning, match="system calls"):
        assert "system_calls" not in box.means()
        results = [box.run(escape, name="f", arguments=[f"({number},)"])[0] for number in range(6)]
    kinds = [result.kind for result in results]
    assert kinds == ["refused", "raised", "raised", "refused", "timeout", "ok"]
    assert victim.read_text() == "alive" and list(tmp_path.iterdir()) == [victim]


def test_the_filter_is_read_as_the_kernel_reads_it():
    """An interpreter of the filter's few instructions, against the table itself."""

    def verdict(program, machine, number, argument):
        lines = [
            (
                int.from_bytes(program[i : i + 2], sys.byteorder),
                program[i + 2],
                program[i + 3],
                int.from_bytes(program[i + 4 : i + 8], sys.byteorder),
            )
            for i in range(0, len(program), 8)
        ]
        memory, place, value = {0: number, 4: machine, 16: argument}, 0, 0
        while True:
            code, yes, no, operand = lines[place]
            place += 1
            if code == 0x20:
                value = memory[operand]
            elif code == 0x15:
                place += yes if value == operand else no
            else:
                return {0x7FFF0000: "allow", 0x00050001: "refuse", 0x80000000: "kill"}[operand]

    for machine in confinement._MACHINES.values():
        program = confinement.filter_program(machine, 5)
        for number in range(500):
            expected = "allow" if number in machine.computing else "refuse"
            if number != machine.write:
                assert verdict(program, machine.audit, number, 5) == expected
        assert verdict(program, machine.audit, machine.write, 5) == "allow"
        assert verdict(program, machine.audit, machine.write, 1) == "refuse"
        assert verdict(program, machine.audit ^ 1, machine.computing[0], 5) == "kill"
        # The other interface of the same machine counts from another base.
        assert verdict(program, machine.audit, 0x40000000 + machine.write, 5) == "refuse"
