"""Eight simulated CPU devices for every test, set before JAX starts; the longest files go first."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: without optimization, and without the newer emitters of
# fused kernels, XLA compiles their programs in a third of the time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and the programs that tests start share what they compile, for this session alone.
    _COMPILED = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)

# Files that take longest for their number of tests: a worker that began one of them last would
# keep the others waiting.
_FIRST = (
    "tests/test_train",
    "tests/launch/",
    "tests/training/",
    "tests/test_tutorial",
    "tests/test_notebook",
    "tests/model/",
)


def pytest_collection_modifyitems(items):
    def rank(item) -> int:
        starts = [n for n, name in enumerate(_FIRST) if item.nodeid.startswith(name)]
        return starts[0] if starts else len(_FIRST)

    items.sort(key=rank)
