"""Lazy imports of public names, so that ``--help`` need not import JAX, which takes seconds."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package: it imports a public name at its first use.

    Args:
        package: name of the package.
        homes: public name -> module that defines it.

    >>> lazy("numbers", {"tau": "math"})("tau") > 6
    True
    >>> lazy("numbers", {"tau": "math"})("pi")
    Traceback (most recent call last):
    AttributeError: module 'numbers' has no attribute 'pi'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find
