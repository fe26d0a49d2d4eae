"""Freed memory is kept: a call of a compiled program causes no page faults once its memory has been used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USUAL = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
PROGRAM = """
import resource, statistics, sys
from jaxiqa.core.allocator import keep_freed_memory, return_freed_memory
print(keep_freed_memory() if sys.argv[1] == "kept" else None)
import jax, jax.numpy as jnp
run = jax.jit(lambda x: 2 * x + 1)
x = jnp.ones((12_000_000,))  # 48 MB, 12,000 pages; glibc keeps less than 32 MiB by itself
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
calls = []
for _ in range(100):  # a small block behind the array may spoil its gap: the first few calls, more on a busy machine
    before = faults()
    run(x).block_until_ready()
    calls.append(faults() - before)
print(statistics.median(calls))
resident = lambda: int(open("/proc/self/statm").read().split()[1])
before = resident()
return_freed_memory()
print(before - resident())
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="no glibc"
)


def measured(setting: str, **environment: str) -> list[str]:
    """Return what the program prints: what the setting said, page faults in a usual call, and pages given back."""
    given = USUAL | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", PROGRAM, setting]
    return subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout.split()


@glibc
def test_a_second_call_finds_its_memory_ready():
    usual, kept = measured("usual"), measured("kept")
    assert kept[0] == "True"
    assert float(usual[1]) > 10_000
    assert float(kept[1]) < 100
    assert float(kept[2]) > 10_000


@glibc
def test_the_environment_of_the_user_wins():
    said, faults, _ = measured("kept", MALLOC_ARENA_MAX="2")
    assert said == "False"
    assert float(faults) > 10_000
