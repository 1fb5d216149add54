"""What a guarded process gives up before it runs collected code, and cannot get back.

Three means of the operating system, each taken where it is to be had; `Confinement.means` names
those that are in force:

- "system_calls": a seccomp filter (Linux, x86-64 and arm64; it needs no privilege) lets the process
  do nothing but take and give back memory, read clocks, write to the pipe of its answers, and end.
  All else fails with EPERM: files, processes, threads, signals, sockets, timers. Neither Python nor
  native code can pass it, whatever it breaks out of.
- "namespaces": without network, mounts, host name or message queues of the machine.
- "empty_root": its file system is one empty folder.

Resource limits come on top everywhere. Where "system_calls" is missing (macOS, a container that
forbids seccomp) sandbox.py's audit hook stands in its place, which guards against what Python code
does, and not against an attacker in native code.

The numbers are the kernel's: linux/seccomp.h, linux/filter.h, asm/unistd.h.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import Any

_NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER = 0x10000000
# Mounts, host name, message queues, network.
_CLONE_OTHERS = 0x00020000 | 0x04000000 | 0x08000000 | 0x40000000
_EPERM = 1
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | _EPERM, 0x7FFF0000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# Where the filter finds the number of a call, the machine, and the low half of the first argument.
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16


@dataclass(frozen=True)
class _Machine:
    """What the kernel calls a machine, its number for `write`, and of the calls that only compute.

    Those are brk, mmap, munmap, mremap, mprotect, madvise, futex, sched_yield, rt_sigprocmask,
    rt_sigreturn, restart_syscall, clock_gettime, gettimeofday, getrandom, exit, exit_group and,
    on x86-64, time.
    """

    audit: int
    write: int
    computing: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        1,
        (12, 9, 11, 25, 10, 28, 202, 24, 14, 15, 219, 228, 96, 318, 60, 231, 201),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        64,
        (214, 222, 215, 216, 226, 233, 98, 124, 135, 139, 128, 113, 169, 278, 93, 94),
    ),
}


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def filter_program(machine: _Machine, answers: int) -> bytes:
    """Instructions that allow the calls of `machine` and `write` to the descriptor `answers`."""
    computing = machine.computing
    lines = [
        (_LOAD_WORD, 0, 0, _MACHINE),
        (_JUMP_IF_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER),
        # Each jumps over the tests that are left, and the refusal and the four lines on `write`.
        *((_JUMP_IF_EQUAL, len(computing) - i + 4, 0, call) for i, call in enumerate(computing)),
        (_JUMP_IF_EQUAL, 1, 0, machine.write),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_IF_EQUAL, 1, 0, answers),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


class Confinement:
    """Made once in the process that forks the guarded ones; `apply` is called in each of those."""

    def __init__(self) -> None:
        self._machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
        # Its own lookup of functions: nothing is looked up after the file system is gone.
        library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._prctl = library.prctl if library is not None else None
        self._namespaces = library is not None and _leave_namespaces(library)
        self.means = self._tried()

    def apply(self, *, answers: int, seconds: float, mebibytes: int) -> tuple[str, ...]:
        """Give up everything but the descriptor `answers`; there is no way back.

        The process ends after `seconds` of its own computing time (a slow or busy machine changes
        nothing but how long that takes), or when its parent does.
        """
        _close_all_but(answers)
        root = _enter_empty_root()
        _drop_user()
        _limit_resources(seconds=seconds, mebibytes=mebibytes, descriptors=answers + 1)
        self._end_with_parent()
        calls = self._refuse_system_calls(answers)
        taken = {"system_calls": calls, "namespaces": self._namespaces, "empty_root": root}
        return tuple(name for name, value in taken.items() if value)

    def _end_with_parent(self) -> None:
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _refuse_system_calls(self, answers: int) -> bool:
        if self._machine is None or self._prctl is None:
            return False
        code = filter_program(self._machine, answers)
        held = ctypes.create_string_buffer(code, len(code))
        program = _FilterProgram(len(code) // 8, ctypes.addressof(held))
        if self._prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        pointer = ctypes.c_void_p(ctypes.addressof(program))
        return self._prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0) == 0

    def _tried(self) -> tuple[str, ...]:
        """What a child can take, found out by one that does nothing else."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            leave = os._exit
            try:
                os.write(write, " ".join(self._trial(write)).encode())
            finally:
                leave(0)
        os.close(write)
        told = os.read(read, 1000).decode()
        os.close(read)
        os.waitpid(child, 0)
        return tuple(told.split())

    def _trial(self, write: int) -> tuple[str, ...]:
        os.setsid()
        return self.apply(answers=write, seconds=5.0, mebibytes=1024)


def _leave_namespaces(library: ctypes.CDLL) -> bool:
    """Leave the machine's namespaces: with privileges as it is, without in a user namespace."""
    flags = _CLONE_OTHERS if os.geteuid() == 0 else _CLONE_OTHERS | _CLONE_NEWUSER
    return library.unshare(flags) == 0


def _close_all_but(answers: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, answers)
    os.closerange(answers + 1, 4096)


def _enter_empty_root() -> bool:
    """Make the working folder, which is empty, the whole file system where that is allowed."""
    try:
        os.chroot(".")
        os.chdir("/")
    except OSError:
        return False
    return True


def _drop_user() -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)


def _limit_resources(*, seconds: float, mebibytes: int, descriptors: int) -> None:
    memory = mebibytes << 20
    # Whole seconds stand behind the timer, which ends the process by a signal.
    cpu = int(seconds) + 2
    limits: tuple[tuple[Any, int], ...] = (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for name, value in limits:
        # macOS lets some of them not be lowered.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (value, value))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
