"""Two CPU devices for every test, strict numpy promotion left alone, and where shared reference data lies."""

import builtins
import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A third of the time goes into machine code that runs once. `.ci/run` sets this to nothing for the slow tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Programs compiled by one worker or one run serve the others.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))


@pytest.fixture(autouse=True)
def no_last_result() -> None:
    """Docstrings' examples leave a last result in ``builtins._``: a tuple of lists makes the import of tyro fail."""
    vars(builtins).pop("_", None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images, weights and reference numbers; skip the test if it is absent."""
    folder = os.environ.get("JAXIQA_SHARED")
    if not folder or not Path(folder).is_dir():
        pytest.skip("JAXIQA_SHARED does not name a folder with the reference data")
    return Path(folder)


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """A worker compiles thousands of programs, and XLA ends a process that is out of memory maps."""
    yield
    import jax

    from jaxiqa.core.compiled import MAPS, memory_maps

    if memory_maps() > MAPS:
        jax.clear_caches()
