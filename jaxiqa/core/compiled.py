"""How many compiled programs a process can hold."""

from collections.abc import Hashable
from pathlib import Path

PROGRAMS = 64
"""Programs of so many sizes are kept."""

MAPS = 25_000
"""No program is added to more memory maps than this. On CPUs a network's program takes hundreds of them, and a process
of Linux may hold 65,530; XLA ends the process when there are no more."""


def make_room(held: set[Hashable], program: Hashable) -> None:
    """Note a program that is about to run; where it would be one too many to compile, JAX drops all before.

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
    """Of this process; 0 where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0
