"""Where a run happens: its processes, and environment.json of the run folder."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

# Those whose versions decide what a run computes.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "sentencepiece", "numpy")


def environment_record(mesh: Mesh) -> dict[str, Any]:
    """Git revision, versions, devices and the command line."""
    devices = jax.devices()
    return {
        "command": sys.argv,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
    }


def _git_revision() -> str | None:
    """The revision of the checkout that this code runs from, with "+changes"; None outside git."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def memory_figures() -> dict[str, int]:
    """Bytes at the peak so far: of this process, and of its first device where that tells."""
    # In KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    figures = {"host_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        figures["device_memory_peak"] = statistics["peak_bytes_in_use"]
    return figures


def seconds_since_start() -> float:
    """How long this process has been running; 0 where the system does not tell."""
    try:
        # The 22nd field, after the program's name in brackets: its start, in ticks since boot.
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        uptime = Path("/proc/uptime").read_text().split()[0]
    except (OSError, IndexError):
        return 0.0
    return max(float(uptime) - int(ticks) / os.sysconf("SC_CLK_TCK"), 0.0)
