"""Where a run happens: environment.json of the run folder."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "sentencepiece", "numpy")


def environment_record(mesh: Mesh) -> dict[str, Any]:
    """Git revision, versions, devices and the command line."""
    devices = jax.devices()
    return {
        "command": sys.argv,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
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
