"""Defenses of a metric, and the wrappers through which adaptive attacks see them."""

from jaxiqa.defenses.adaptive import bpda, eot
from jaxiqa.defenses.adversarial import (
    ADVERSARIAL_PRESETS,
    LABELS,
    adversarial_batch,
    deviation,
    norm_penalty,
    relabel,
)

__all__ = [
    "ADVERSARIAL_PRESETS",
    "LABELS",
    "adversarial_batch",
    "bpda",
    "deviation",
    "eot",
    "norm_penalty",
    "relabel",
]
