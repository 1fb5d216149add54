"""Compiled steps kept on disk, so that a run that goes on need not compile again."""

from pathlib import Path

import jax
from jax import stages
from jax.experimental.compilation_cache import compilation_cache

_HIT = "/jax/compilation_cache/cache_hits"


def use_compile_cache(choice: str, *, workdir: Path) -> None:
    """Sets JAX's persistent cache; call it before the first compilation.

    Args:
      choice: "" = `WORKDIR/compiled`, or what JAX_COMPILATION_CACHE_DIR names; "off" = no cache;
        else a folder.
      workdir: run folder.
    """
    if choice == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not choice and jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(choice) if choice else workdir / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # JAX looks once in a process whether there is a cache, and may have done so.
    compilation_cache.reset_cache()


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
