"""Settings of all tests: two CPU devices, the compilation cache, and the folder of reference data."""

import builtins
import gc
import hashlib
import os
import time
from pathlib import Path

import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Optimising machine code that runs once takes a third of the time. `.ci/run` empties this for some slow tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Share compiled programs between workers and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a second run takes a third of the time


DEADLINE = float(os.environ.get("JAXIQA_TEST_DEADLINE", "inf"))
"""Unix time after which slow tests are skipped. Machines differ by a factor of two, and `.ci/run` has limited time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files in an order of their own for each commit, so that a deadline leaves out other tests every time."""
    if order := os.environ.get("JAXIQA_TEST_ORDER"):
        items.sort(key=lambda item: hashlib.sha256(f"{order} {item.path.name}".encode()).digest())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test after the deadline."""
    if time.time() > DEADLINE and item.get_closest_marker("slow"):
        pytest.skip("JAXIQA_TEST_DEADLINE has passed")


@pytest.fixture(autouse=True)
def no_last_result() -> None:
    """Remove ``builtins._``, the last result of a docstring's example: a tuple of lists breaks the import of tyro."""
    vars(builtins).pop("_", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images, weights and reference numbers; skip the test if it is absent."""
    folder = os.environ.get("JAXIQA_SHARED")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXIQA_SHARED does not name a folder with the reference data")
    return Path(folder)


RESIDENT = 4 * 2**30
"""Bytes of memory at which a worker gives back what it can. Two workers must fit into 24 GiB: one was killed at 16."""


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Clear compiled programs in time: they hold memory, and XLA ends a process that runs out of memory maps."""
    yield
    import jax

    from jaxiqa.core.allocator import return_freed_memory
    from jaxiqa.core.compiled import MAPS, memory_maps

    if memory_maps() > MAPS or resident_bytes() > RESIDENT:
        jax.clear_caches()
        gc.collect()
        return_freed_memory()


def resident_bytes() -> int:
    """Return the memory that this process occupies; 0 if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
