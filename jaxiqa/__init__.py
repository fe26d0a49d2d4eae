"""jaxiqa: build, harden, attack and certify image-quality-assessment models in JAX."""

import sys
from itertools import pairwise
from typing import Any

from jaxiqa.core.interrupts import quiet

__all__ = ["__version__", "citation", "load"]

if any(flag == "-m" and module.partition(".")[0] == "jaxiqa" for flag, module in pairwise(sys.orig_argv)):
    quiet()  # Python imports this file before the program's own, and Ctrl-C may fall in between


def __getattr__(name: str) -> Any:
    """Public names are imported when asked for: JAX takes seconds, which --help does not have."""
    if name == "load":
        from jaxiqa.models.loading import load

        return load
    if name == "citation":
        from jaxiqa.references import citation

        return citation
    if name == "__version__":
        from jaxiqa.core.version import package_version

        return package_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
