"""The limit on compiled programs in one process."""

from collections.abc import Hashable
from pathlib import Path

PROGRAMS = 64
"""Largest number of programs (sizes) that are kept."""

MAPS = 25_000
"""Largest number of memory maps at which a program may be added. On CPUs the program of a network takes hundreds of
maps. A Linux process may hold 65,530; XLA ends the process when there are no more."""


def make_room(held: set[Hashable], program: Hashable) -> None:
    """Register a program that is about to run; if it is new and there are too many, clear JAX's caches first.

    >>> held = set()
    >>> for size in range(100):
    ...     make_room(held, size)
    >>> len(held) < PROGRAMS
    True
    """
    import jax

    if program not in held and held and (len(held) >= PROGRAMS or memory_maps() > MAPS):
        jax.clear_caches()
        held.clear()
    held.add(program)


def memory_maps() -> int:
    """Return the number of memory maps of this process; 0 if the system does not tell."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0
