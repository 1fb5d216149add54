"""Compiled steps kept on disk, so that a run that goes on need not compile again."""

import hashlib
import platform
from pathlib import Path

import jax
import jaxlib
from jax import stages
from jax.experimental.compilation_cache import compilation_cache

_HIT = "/jax/compilation_cache/cache_hits"
_CPU_INFO = Path("/proc/cpuinfo")
# Lines of it that say what programs a processor runs, on x86 and on ARM.
_CPU_LINES = ("cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")


def use_compile_cache(choice: str, *, workdir: Path) -> None:
    """Sets JAX's persistent cache; call it before the first compilation.

    Args:
      choice: "" = `WORKDIR/compiled`, or what JAX_COMPILATION_CACHE_DIR names; "off" = no cache;
        else a folder. A folder of ours has one of `machine_name` in it for each kind of machine.
      workdir: run folder.
    """
    if choice == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not choice and jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = (Path(choice) if choice else workdir / "compiled") / machine_name()
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # JAX looks once in a process whether there is a cache, and may have done so.
    compilation_cache.reset_cache()


def machine_name(cpu_info: Path = _CPU_INFO) -> str:
    """A name of the devices and the processor that functions are compiled for.

    JAX itself does not tell processors apart, and what was compiled for one may end a program on
    another (SIGILL): run folders travel, and a network disk has many machines.

    Args:
      cpu_info: what Linux says of the processor; another system has no such file.
    """
    try:
        lines = cpu_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    processor = {line for line in lines if line.partition(":")[0].strip() in _CPU_LINES}
    backend = jax.default_backend()
    kinds = (backend, jax.devices()[0].device_kind, platform.machine(), platform.processor())
    text = repr([*kinds, jaxlib.__version__, *sorted(processor)])
    return f"{backend}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def compile_noticing_cache(lowered: stages.Lowered) -> tuple[stages.Compiled, bool]:
    """The compiled function, and whether it was read from the cache."""
    hits: list[str] = []

    def notice(event: str, **_: str | int) -> None:
        if event == _HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(notice)
    try:
        return lowered.compile(), bool(hits)
    finally:
        jax.monitoring.unregister_event_listener(notice)
