"""Signals to a process that is busy in compiled code, where Python itself hears nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from instructrec_jax.errors import CheckpointError, Preempted
from instructrec_jax.training.interruption import StopRequest

# pbkdf2 computes for minutes outside of Python's interpreter, as a compiler does.
PROGRAM = """
import hashlib, sys
from instructrec_jax.errors import Preempted
from instructrec_jax.training.interruption import StopRequest
stop = StopRequest()
stop.has_state = sys.argv[1] == "state"
try:
    with stop.listening():
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"word", b"salt", int(sys.argv[2]))
        print("asked" if stop.received else "not asked", flush=True)
except Preempted as preempted:
    print(preempted)
    sys.exit(preempted.exit_code)
"""
LONG, SHORT = 10**9, 1


def start(state: str, rounds: int) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, state, str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return process


def test_without_a_state_the_run_ends_though_python_does_not_get_its_turn():
    before, with_state = start("none", LONG), start("state", LONG)
    before.send_signal(signal.SIGTERM)
    # A key press that reaches the process twice is one.
    with_state.send_signal(signal.SIGINT)
    with_state.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert with_state.poll() is None
    with_state.send_signal(signal.SIGINT)
    words = with_state.communicate(timeout=5)[1]
    assert with_state.returncode == 128 + signal.SIGINT
    assert words.count("SIGINT: the run is saved and ends; once more ends it now") == 1
    words = before.communicate(timeout=10)[1]
    assert before.returncode == 75
    assert "stopped by SIGTERM before a step was taken" in words


def test_what_a_signal_interrupts_is_not_taken_for_damage():
    stop = StopRequest()
    with pytest.raises(Preempted, match="SIGTERM before a step"), stop.listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            # As those do who read checkpoints with a library of many errors.
            raise CheckpointError("damaged") from error
        finally:
            stop.has_state = True  # or the thread ends these tests


def test_nothing_is_raised_where_python_would_drop_it(monkeypatch):
    stop = StopRequest()
    monkeypatch.setattr("instructrec_jax.training.interruption._GRACE_SECONDS", 60.0)

    def _xla_gc_callback():
        os.kill(os.getpid(), signal.SIGTERM)

    with stop.listening():
        _xla_gc_callback()
        assert stop.received == "SIGTERM"
        stop.has_state = True  # or the thread ends these tests
