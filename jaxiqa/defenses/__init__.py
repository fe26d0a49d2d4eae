"""Defenses of a metric, and the wrappers for adaptive attacks on them."""

from jaxiqa.core.lazy import lazy

HOMES = {
    "ADVERSARIAL_PRESETS": "jaxiqa.defenses.adversarial_training",
    "LABELS": "jaxiqa.defenses.adversarial_training",
    "adversarial_batch": "jaxiqa.defenses.adversarial_training",
    "bpda": "jaxiqa.defenses.adaptive",
    "deviation": "jaxiqa.defenses.adversarial_training",
    "eot": "jaxiqa.defenses.adaptive",
    "jacobian_penalty": "jaxiqa.defenses.jacobian",
    "norm_penalty": "jaxiqa.defenses.adversarial_training",
    "relabel": "jaxiqa.defenses.adversarial_training",
}
__all__ = list(HOMES)
__getattr__ = lazy(__name__, HOMES)
