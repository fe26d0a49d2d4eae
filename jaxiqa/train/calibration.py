"""The linear map from a metric's raw output to the scale of human scores."""

import numpy as np
from jaxtyping import Float

from jaxiqa.train.divergence import LARGEST_SPREAD, differ


def fit_linear(raw: Float[np.ndarray, " n"], mos: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Fit (k, b) by least squares: minimise Σ(k·raw + b − mos)² on the training set.

    Raises:
        FloatingPointError: the training failed: raw scores are not finite, are equal up to float32's precision, have a
            standard deviation above `jaxiqa.train.divergence.LARGEST_SPREAD`, or fall as quality rises.

    >>> k, b = fit_linear(np.array([0.0, 1.0, 2.0]), np.array([10.0, 30.0, 50.0]))
    >>> round(k, 6), round(b, 6)
    (20.0, 10.0)
    """
    raw, mos = np.asarray(raw, np.float64), np.asarray(mos, np.float64)
    if not np.isfinite(raw).all():
        raise FloatingPointError("training diverged: raw scores of the training set are not finite")
    if not differ(raw):
        raise FloatingPointError("all raw scores of the training set are equal; the metric has learnt nothing")
    if np.std(raw) > LARGEST_SPREAD:
        raise FloatingPointError(
            f"training diverged: the standard deviation of raw training scores is {np.std(raw):.3g}; about 1 is usual"
        )
    k, b = np.polyfit(raw, mos, 1)
    if k <= 0:
        raise FloatingPointError(f"raw scores fall as human scores rise (slope {k:.3g}); the metric has learnt nothing")
    return float(k), float(b)
