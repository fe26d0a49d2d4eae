"""Image-quality metrics: load a published one, build a new one, harden it, save it, call it as a score function."""

from jaxiqa.core.lazy import lazy

HOMES = {
    "BACKBONES": "jaxiqa.nn.backbones",
    "MODELS": "jaxiqa.models.registry",
    "POSITIONS": "jaxiqa.models.positions",
    "Averaged": "jaxiqa.models.averaged",
    "Linearity": "jaxiqa.models.linearity",
    "LipschitzIQA": "jaxiqa.models.lipschitz_iqa",
    "NormControlled": "jaxiqa.models.norm_controlled",
    "ScoreModel": "jaxiqa.models.score_model",
    "average": "jaxiqa.models.averaged",
    "blur_strides": "jaxiqa.models.antialiasing",
    "build": "jaxiqa.models.building",
    "compact": "jaxiqa.nn.compact",
    "control_tail": "jaxiqa.models.norm_controlled",
    "export": "jaxiqa.models.exporting",
    "filter_images": "jaxiqa.models.hardening",
    "fold_batch_norm": "jaxiqa.nn.fold",
    "harden": "jaxiqa.models.hardening",
    "harden_recommended": "jaxiqa.models.recommended",
    "load": "jaxiqa.models.loading",
    "load_exported": "jaxiqa.models.exporting",
    "load_run": "jaxiqa.models.loading",
    "resolve_position": "jaxiqa.models.positions",
    "save": "jaxiqa.models.saved_model",
    "score_fn": "jaxiqa.models.score_model",
    "swap_activation": "jaxiqa.models.activations",
    "swap_pooling": "jaxiqa.models.pooling",
}
__all__ = list(HOMES)
__getattr__ = lazy(__name__, HOMES)
