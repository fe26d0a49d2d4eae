"""Defenses of a metric, and the wrappers through which adaptive attacks see them."""

from importlib import import_module
from typing import Any

# Where each public name lives. They are imported when asked for: JAX takes seconds, which --help does not have.
HOMES = {
    "ADVERSARIAL_PRESETS": "adversarial_training",
    "LABELS": "adversarial_training",
    "adversarial_batch": "adversarial_training",
    "bpda": "adaptive",
    "deviation": "adversarial_training",
    "eot": "adaptive",
    "norm_penalty": "adversarial_training",
    "relabel": "adversarial_training",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
