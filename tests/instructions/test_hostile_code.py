"""A repository that means harm: nothing outside is touched, the work goes on, all is counted."""

import os
import socket
import threading
import time
from collections import Counter

import pytest

from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.execution import Outcome, Sandbox
from instructrec_jax.instructions.sources import python_code
from instructrec_jax.instructions.tasks.code_table import CODE_TASKS

IMPORTS = "import math, os, shutil, socket, subprocess, ctypes, sys, signal, threading, pathlib\n"
HONEST = "def double(n):\n    return n + n\n"
# Each as the body of a function of x; {0} is a file that must stay as it is.
HOSTILE = {
    "remove": "os.remove({0!r})\n    return x",
    "rmtree": "shutil.rmtree(os.path.dirname({0!r}))\n    return x",
    "unlink": "pathlib.Path({0!r}).unlink()\n    return x",
    "overwrite": "open({0!r}, 'w').write('gone')\n    return x",
    "fork_bomb": "while True:\n        os.fork()",
    "subprocess": "subprocess.run(['rm', {0!r}])\n    return x",
    "system": "os.system('rm ' + {0!r})\n    return x",
    "native": "ctypes.CDLL(None).unlink({0!r}.encode())\n    return x",
    "network": "socket.create_connection(('127.0.0.1', {1}))\n    return x",
    "signal": "os.kill(os.getppid(), signal.SIGKILL)\n    return x",
    "leave": "os._exit(0)",
    "thread": "threading.Thread(target=os.remove, args=({0!r},)).start()\n    return x",
    "trace": "sys.settrace(None)\n    return x",
    "protocol": "print('[[\"ok\", \"1\"]]')\n    return x",
    "local_import": "import os\n    os.remove({0!r})\n    return x",
    "dunder_import": "return __import__('os').remove({0!r})",
    "evaluate": "return eval('__import__(\"os\").remove(' + repr({0!r}) + ')')",
    "builtins": "global len\n    len = os.remove\n    return len({0!r})",
    "subclasses": "return ().__class__.__base__.__subclasses__()",
    "class_with_del": "class A:\n        def __del__(self): os.remove({0!r})\n    return A()",
    "getter": "return getattr(x, '__class__')",
    "default": "return x",
    "decorated": "return x",
    "endless": "while True:\n        x = 1",
    "endless_native": "return sum(range(10 ** 13)) + x",
    "stubborn": "while True:\n        try:\n            x = 1\n        except BaseException:\n"
    "            pass",
    "memory": "return len('x' * 10 ** 11) + x",
    "growing": "y = [x]\n    while True:\n        y = y + y",
    "recursion": "return recursion([x])",
    "huge_text": "return str([x]) * 10 ** 5",
    "huge_number": "return 10 ** 10 ** 7 + x",
    "infinite_value": "return iter(lambda: x, object)",
    "counting": "return map(str, iter(int, 1))",
    "nested": "y = [x]\n    for i in range(10 ** 3):\n        y = [y]\n    return y",
    "format_escape": "return '{{0.__class__.__base__}}'.format(x)",
    "forge": "y = (y.gi_frame.f_back for _ in range(1))\n    frame = next(y)\n"
    "    while 'send' not in frame.f_locals:\n        frame = frame.f_back\n"
    "    frame.f_locals['send'](frame.f_locals['write'], b'[[\"ok\", \"1\"]]')\n    return x",
    "backtracking": "return len('a' * 40) if x else len('b')",
}  # fmt: skip
HEADERS = {
    "default": "def default(x=open({0!r}, 'w')):",
    "decorated": "@os.remove\ndef decorated(x={0!r}):",
}
AT_IMPORT = "os.remove({0!r})\nopen({0!r}, 'w').write('gone')\n\n"


def hostile_module(canary, port):
    functions = [
        HEADERS.get(name, f"def {name}(x):").format(str(canary), port)
        + "\n    "
        + body.format(str(canary), port)
        + "\n"
        for name, body in HOSTILE.items()
    ]
    return "\n".join([IMPORTS, AT_IMPORT.format(str(canary)), HONEST, *functions])


@pytest.fixture
def listener():
    """A port that would notice a caller."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


def test_every_task_on_a_hostile_repository(tmp_path, listener):
    canary = tmp_path / "canary"
    canary.write_text("alive")
    port = listener.getsockname()[1]
    source = hostile_module(canary, port)
    documents = list(python_code.definitions(source, uri="evil.py", licence=""))
    assert {d.content["name"] for d in documents} >= set(HOSTILE) - {"decorated"}
    threads, start = threading.active_count(), time.monotonic()
    made, refused = Counter(), {}
    with Sandbox(seconds=0.3, mebibytes=256) as box:
        context = Context(seed=0, sandbox=box)
        for document in documents:
            for task in CODE_TASKS.values():
                for draft in task.generate(document, context):
                    if draft.rejected:
                        refused.setdefault(document.content["name"], set()).add(draft.rejected)
                    elif task.target_source == "executed":
                        made[document.content["name"]] += 1
    assert time.monotonic() - start < 30
    assert canary.read_text() == "alive" and list(tmp_path.iterdir()) == [canary]
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert threading.active_count() == threads
    # The build went on: the honest function has its drafts.
    assert made["double"] > 5
    # The decorator is no part of the function's code, and is not run; what is left is harmless.
    assert made["decorated"] > 5
    # What cannot be run harmlessly is counted with its reason, and gives no target.
    for name in set(HOSTILE) - {"decorated", "backtracking"}:
        assert refused[name], name
        assert made[name] == 0, name
    assert refused["remove"] == {"not_run_name"} and refused["local_import"] == {
        "not_run_statement"
    }
    for name in ("subclasses", "format_escape", "forge"):
        assert refused[name] == {"not_run_attribute"}
    assert refused["default"] == {"not_run_name"}
    assert "execution_steps" in refused["endless"]
    assert "execution_timeout" in refused["endless_native"]
    assert "execution_raised" in refused["recursion"]
    assert refused["huge_text"] <= {"execution_too_long", "execution_raised"}
    assert refused["counting"] == {"execution_not_literal"}
    assert refused["nested"] == {"execution_not_literal"}
    assert refused["memory"] & {"execution_memory", "execution_raised"}


# The guard's own code reached through a function of a module: past the namespace and the lists.
ESCAPE = """\
    sys, frames = calendar.isleap.__globals__['sys'], []
    counter = sys.gettrace()
    sys.settrace(lambda frame, *given: frames.append(frame))
    (lambda: 0)()
    sys.settrace(counter)
    frame = frames[0]
    while 'guard' not in frame.f_locals:
        frame = frame.f_back
    os, builtins = sys.modules['os'], sys.modules['builtins']
"""


@pytest.mark.parametrize(
    "action",
    [
        # Values that act when they are looked at, compared, hashed, freed or shown.
        "return type('A', (), dict(__repr__=lambda s: os.remove({0!r}) or 'x'))()",
        "return type('A', (list,), dict(__len__=lambda s: os.remove({0!r}) or 1))()",
        "return [type('A', (), dict(__eq__=lambda s, o: os.remove({0!r})))()]",
        "return {{type('A', (), dict(__hash__=lambda s: os.remove({0!r}) or 1))()}}",
        "return type('A', (), dict(__del__=lambda s: os.remove({0!r})))()",
        "return type('A', (int,), dict(__repr__=lambda s: os.remove({0!r}) or '1'))(1)",
        # Without the counter of lines.
        "sys.settrace(None)\n    while True: pass",
        "sys.settrace(None)\n    x = []\n    while True: x.append('y' * 1000)",
        # A lock that nobody lets go.
        "lock = sys.modules['_thread'].allocate_lock()\n    lock.acquire()\n    lock.acquire()",
        "sys.modules['_thread'].start_new_thread(os.remove, ({0!r},))",
        "sys.modules['signal'].setitimer(sys.modules['signal'].ITIMER_REAL, 0)",
        "sys.modules['ctypes'].CDLL(None).unlink({0!r}.encode())",
        "sys.modules['_ctypes'].dlopen('libc.so.6', 0)",
        "frame.f_locals['guard'].confinement._prctl(1, 0, 0, 0, 0)\n    builtins.open({0!r}, 'w')",
        "builtins.len = lambda x: 7\n    sys.modules['json'].dumps = lambda x: 'forged'",
        "sys.setrecursionlimit(10 ** 9)\n    g = lambda n: g(n + 1)\n    g(0)",
        "sys.exit(3)",
        "frame.f_locals['guard'].confinement.apply(answers=1, seconds=99.0, mebibytes=9999)",
    ],
)
def test_code_that_broke_out_of_its_namespace(tmp_path, action):
    canary = tmp_path / "canary"
    canary.write_text("alive")
    code = "def f():\n" + ESCAPE + "    " + action.format(str(canary))
    start = time.monotonic()
    with Sandbox(seconds=0.2, mebibytes=256) as box:
        (result,) = box.run(
            code.replace("type(", "builtins.type("),
            name="f",
            arguments=["()"],
            modules=("calendar",),
        )
        assert result.kind != "ok" or result.text == "None", result
        after = box.run(HONEST, name="double", arguments=["(2,)"])
    assert after == [Outcome("ok", "4")]
    assert canary.read_text() == "alive" and list(tmp_path.iterdir()) == [canary]
    assert time.monotonic() - start < 8


def test_the_way_out_is_one():
    code = "def f():\n" + ESCAPE + "    return os.__name__, callable(builtins.open)"
    with Sandbox() as box:
        (result,) = box.run(code, name="f", arguments=["()"], modules=("calendar",))
    assert result == Outcome("ok", "('os', True)")


def test_no_process_is_left_behind():
    with Sandbox(seconds=0.2) as box:
        box.run("def f():\n    while True: sum(range(10 ** 12))", name="f", arguments=["()"])
        servers = [server._process.pid for server in box._servers]
        children = [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if any(f"PPid:\t{server}\n" in _status(pid) for server in servers)
        ]
        assert children == []


def _status(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return file.read()
    except OSError:
        return ""
