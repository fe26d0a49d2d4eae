"""Times of several programs that do the same work, measured side by side so that they can be compared.

Rounds are interleaved: each runs every program once, between two runs of a fixed probe. A round during which the probe
is slower than 1.25 times its best is contended by somebody else's work, and is thrown away.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

TOLERATED = 1.25


@dataclass(frozen=True)
class Timing:
    """Median seconds per program, and how many rounds were kept and thrown away."""

    seconds: dict[str, float]
    kept: int
    rejected: int


def probe() -> float:
    """Seconds of a fixed matrix product, on all cores."""
    a = np.ones((700, 700), np.float32)
    began = time.perf_counter()
    for _ in range(6):
        a @ a
    return time.perf_counter() - began


def measure(programs: dict[str, Callable[[], object]], *, rounds: int = 7, most: int = 25) -> Timing:
    """Run every program once to warm up, then in interleaved rounds until ``rounds`` were kept or ``most`` were run.

    A program must return only when its work is done.
    """
    for program in programs.values():
        program()
    best = min(probe() for _ in range(8))
    kept: dict[str, list[float]] = {name: [] for name in programs}
    rejected = 0
    for _ in range(most):
        before, times = probe(), {}
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            times[name] = time.perf_counter() - began
        after = probe()
        best = min(best, before, after)
        if max(before, after) > TOLERATED * best:
            rejected += 1
            continue
        for name, seconds in times.items():
            kept[name].append(seconds)
        if len(kept[name]) == rounds:
            break
    count = len(next(iter(kept.values())))
    if not count:
        raise RuntimeError(f"all {rejected} rounds were contended: something else is running on this machine")
    return Timing({name: median(times) for name, times in kept.items()}, count, rejected)
