"""Measure several programs that do the same work, so that their times can be compared.

Each round runs every program once, with a fixed probe before and after. A run is discarded if the mean of its two
probes is more than 1.25 times the median of all probes: another process was using the machine.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

# The threads of OpenBLAS (LAPACK in JAX) and OpenMP (PyTorch) wait by spinning, which slows down the next program.
# Import this module before any that loads these libraries.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp

TOLERATED = 1.25
LONG = 0.08
"""Least seconds of one run: a faster program is repeated."""
SETTLE = 0.03
"""Seconds in which the idle threads of other libraries stop spinning."""


@dataclass(frozen=True)
class Timing:
    """Median seconds per program, the smallest number of runs kept per program, and the number of discarded runs."""

    seconds: dict[str, float]
    kept: int
    rejected: int


@jax.jit
def _work(x: jax.Array) -> jax.Array:
    for _ in range(12):
        x = x @ x
    return x


OPERAND = jnp.zeros((500, 500) if jax.default_backend() == "cpu" else (2000, 2000))


def chip() -> str:
    """Return the name of the device, or of the processor."""
    first = jax.devices()[0]
    return first.device_kind if first.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"


def probe(after: float = 0.0) -> float:
    """Return the seconds of a fixed matrix product on all cores, the fastest of three, after a pause.

    The pause grows with the ``after`` seconds of the last program: after a long one the kernel frees gigabytes, which
    would slow down the probe.
    """
    time.sleep(max(SETTLE, after / 50))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(_work(OPERAND))
        times.append(time.perf_counter() - began)
    return min(times)


def measure(programs: dict[str, Callable[[], object]], *, keep: int = 5, most: int = 15) -> Timing:
    """Run every program once to warm up, then in interleaved rounds until ``keep`` runs of each can be kept.

    Args:
        programs: functions that return only when their work is done.
        keep: runs to keep of each program.
        most: the largest number of rounds. `RuntimeError` if no run of some program is kept by then.
    """
    repeats = {}
    for name, program in ({"probe": probe} | programs).items():
        began = time.perf_counter()
        program()
        repeats[name] = 1 + int(LONG / (time.perf_counter() - began))
    runs: list[tuple[str, float, float]] = []  # program, seconds, the mean of the probes around it
    probes = [probe() for _ in range(20)]
    for _ in range(most):
        for name, program in programs.items():
            before, began = probes[-1], time.perf_counter()
            for _ in range(repeats[name]):
                program()
            seconds = (time.perf_counter() - began) / repeats[name]
            probes.append(probe(seconds))
            runs.append((name, seconds, (before + probes[-1]) / 2))
        limit = TOLERATED * median(probes)
        kept = {name: [s for n, s, around in runs if n == name and around <= limit] for name in programs}
        fewest = min(map(len, kept.values()))
        if fewest >= keep:
            break
    if not fewest:
        names = ", ".join(name for name, times in kept.items() if not times)
        raise RuntimeError(f"no undisturbed run of {names} in {most} rounds: the machine is busy with other work")
    return Timing(
        {name: median(times) for name, times in kept.items()}, fewest, len(runs) - sum(map(len, kept.values()))
    )
