"""Public names that are imported when asked for: JAX takes seconds, which ``--help`` does not have."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: its name.
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
