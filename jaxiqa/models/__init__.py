"""Image-quality metrics: load a published one or build one, harden it, save it, and call it as a score function."""

from importlib import import_module
from typing import Any

# Where each public name lives. They are imported when asked for: JAX takes seconds, which --help does not have.
HOMES = {
    "BACKBONES": "nn.backbones",
    "MODELS": "models.registry",
    "POSITIONS": "models.hardening",
    "Linearity": "models.linearity",
    "ScoreModel": "models.score_model",
    "build": "models.score_model",
    "export": "models.exporting",
    "fold_batch_norm": "nn.fold",
    "harden": "models.hardening",
    "load": "models.loading",
    "load_exported": "models.exporting",
    "load_run": "models.loading",
    "save": "models.saved_model",
    "score_fn": "models.score_model",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"jaxiqa.{HOMES[name]}"), name)
