"""Bounds on how far a score can move: upper bounds of layers and networks, and slopes at given images."""

from jaxiqa.lipschitz.local import (
    Clever,
    certified_interval,
    clever,
    gradient_norms,
    gradients,
    jacobian_norms,
    largest_slope,
)
from jaxiqa.lipschitz.network import Report, Row, report
from jaxiqa.lipschitz.spectral import (
    NormBound,
    circular_singular_values,
    conv_norm,
    gram_bound,
    largest_norm,
    power_iteration,
)
from jaxiqa.lipschitz.stages import Growth, growth

__all__ = [
    "Clever",
    "Growth",
    "NormBound",
    "Report",
    "Row",
    "certified_interval",
    "circular_singular_values",
    "clever",
    "conv_norm",
    "gradient_norms",
    "gradients",
    "gram_bound",
    "growth",
    "jacobian_norms",
    "largest_norm",
    "largest_slope",
    "power_iteration",
    "report",
]
