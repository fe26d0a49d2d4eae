"""Image-quality metrics: load a published one or build one, harden it, save it, and call it as a score function."""

from importlib import import_module
from typing import Any

# Where each public name lives. They are imported when asked for: JAX takes seconds, which --help does not have.
HOMES = {
    "BACKBONES": "backbones",
    "MODELS": "registry",
    "POSITIONS": "surgery",
    "Linearity": "linearity",
    "ScoreModel": "metric",
    "build": "metric",
    "fold_batch_norm": "fold",
    "harden": "surgery",
    "load": "loading",
    "load_run": "loading",
    "save": "store",
    "score_fn": "metric",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
