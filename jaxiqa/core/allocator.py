"""Memory of a program on a CPU: what XLA frees is kept for its next call."""

import ctypes
import os
import sys
from importlib.util import find_spec

ARENAS, MAPPED, TRIM = -8, -4, -1
"""Parameters of glibc's ``mallopt``: the largest number of heaps and of mapped blocks; free bytes that are kept."""


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory, where `is_useful`; return whether it does.

    XLA allocates the temporary arrays of a program anew in every call. glibc returns blocks of 32 MiB and more to the
    system at once, and each of their pages costs a page fault when it is next written: 180,000 in a training step of
    EfficientNet-Lite0 on 8 images of 224×224. benchmarks/README.md has the time that is saved.

    Blocks of other sizes may not fit into the gaps, and the process grows: call `return_freed_memory` before another
    program runs. Threads that are older than this call are not covered, so call it before JAX computes.

    >>> import subprocess, sys
    >>> program = "from jaxiqa.core.allocator import keep_freed_memory; print(keep_freed_memory())"
    >>> environment = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2", "JAX_PLATFORMS": "cpu"}
    >>> subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True).stdout
    'False\\n'
    """
    if not is_useful():
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(ARENAS, 1), library.mallopt(MAPPED, 0), library.mallopt(TRIM, -1)])


def return_freed_memory() -> None:
    """Give memory that is free back to the system, where the C library can."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def is_useful() -> bool:
    """Return whether this is a process with glibc, without an accelerator, and with the usual allocator.

    With an accelerator, many threads of the host decode images, each in a heap of its own. The allocator is not the
    usual one if a variable LD_PRELOAD, GLIBC_TUNABLES or MALLOC_… is set.
    """
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if not _is_glibc() or any(name.startswith(names) for name in os.environ):
        return False
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return platforms == "cpu" if platforms else not (find_spec("jax_plugins") or find_spec("libtpu"))


def _is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
