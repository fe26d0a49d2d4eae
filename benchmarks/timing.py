"""Times of several programs that do the same work, measured side by side so that they can be compared.

Rounds are interleaved: each runs every program once, with a fixed probe before and after each. A run between probes
whose mean is more than 1.25 times the median of all is contended by somebody else's work, and is thrown away.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

# Threads that wait by spinning, as those of OpenBLAS (LAPACK in JAX) and OpenMP (PyTorch) do, would slow down whatever
# runs next: import this before anything that loads them.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp

TOLERATED = 1.25
LONG = 0.08
"""Seconds that one run lasts at least: a program that is faster is repeated."""
SETTLE = 0.03
"""Seconds in which the idle threads of other libraries stop spinning."""


@dataclass(frozen=True)
class Timing:
    """Median seconds per program; the smallest number of runs kept for one, and how many were thrown away."""

    seconds: dict[str, float]
    kept: int
    rejected: int


@jax.jit
def _work(x: jax.Array) -> jax.Array:
    for _ in range(12):
        x = x @ x
    return x


OPERAND = jnp.zeros((500, 500))


def probe(after: float = 0.0) -> float:
    """Seconds of a fixed matrix product on all cores, the quickest of three, after a program of ``after`` seconds.

    A long program gives back gigabytes, which takes the kernel a while: that would throw away every run of it.
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
        programs: each returns only when its work is done.
        keep: runs to keep of each program.
        most: rounds after which less has to do, or, with no run kept of some program, `RuntimeError`.
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
        raise RuntimeError(f"no quiet run of {names} in {most} rounds: something else is busy on this machine")
    return Timing(
        {name: median(times) for name, times in kept.items()}, fewest, len(runs) - sum(map(len, kept.values()))
    )
