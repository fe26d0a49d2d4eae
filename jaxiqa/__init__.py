"""jaxiqa: build, harden, attack and certify image-quality-assessment models in JAX."""

import sys
from itertools import pairwise

from jaxiqa.core.interrupts import quiet
from jaxiqa.core.lazy import lazy

__all__ = ["__version__", "citation", "load"]

if any(flag == "-m" and module.partition(".")[0] == "jaxiqa" for flag, module in pairwise(sys.orig_argv)):
    quiet()  # Python imports this file before the program itself; Ctrl-C may come in between

__getattr__ = lazy(
    __name__,
    {
        "__version__": "jaxiqa.core.version",
        "citation": "jaxiqa.references",
        "load": "jaxiqa.models.loading",
    },
)
