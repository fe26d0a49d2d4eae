"""jaxiqa: build, harden, attack and certify image-quality-assessment models in JAX."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` is `jaxiqa.models.load`, imported when asked for: JAX takes seconds, which --help does not have."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxiqa.models.loading import load

    return load
