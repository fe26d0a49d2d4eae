"""jaxiqa: build, harden, attack and certify image-quality-assessment models in JAX."""

import sys
from itertools import pairwise
from typing import Any

from jaxiqa.core.interrupts import quiet

__all__ = ["load"]

if any(flag == "-m" and module.partition(".")[0] == "jaxiqa" for flag, module in pairwise(sys.orig_argv)):
    quiet()  # Python imports this file before the program's own, and Ctrl-C may fall in between


def __getattr__(name: str) -> Any:
    """`load` is `jaxiqa.models.load`, imported when asked for: JAX takes seconds, which --help does not have."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxiqa.models.loading import load

    return load
