"""Agreement of predicted with human scores. Host-side, float64, ties as in SciPy.

An undefined correlation (a constant input) is an error, never a NaN that a mean would hide.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

Values = Float[np.ndarray, "_"]


def srocc(predictions: Values, mos: Values) -> float:
    """Return Spearman's rank correlation, in [−1, 1]: Pearson's correlation of the ranks, ties with their mean rank.

    Args:
        predictions: one score per image, any unit, at least two.
        mos: the human scores of the same images, any unit.

    Raises:
        ValueError: fewer than two values, values that are not finite, or all equal (the correlation is undefined).

    >>> srocc(np.array([1.0, 2.0, 9.0]), np.array([10.0, 20.0, 21.0]))
    1.0
    """
    return _checked(scipy.stats.spearmanr, predictions, mos)


def plcc(predictions: Values, mos: Values) -> float:
    """Return Pearson's linear correlation, in [−1, 1], without a fitted mapping. Errors as of `srocc`.

    >>> round(plcc(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0])), 12)
    1.0
    """
    return _checked(scipy.stats.pearsonr, predictions, mos)


def krocc(predictions: Values, mos: Values) -> float:
    """Return Kendall's rank correlation τ-b, in [−1, 1]. Errors as of `srocc`.

    >>> krocc(np.array([1.0, 2.0, 9.0]), np.array([10.0, 20.0, 21.0]))
    1.0
    """
    return _checked(scipy.stats.kendalltau, predictions, mos)


def _checked(correlation: Callable[..., Any], predictions: Values, mos: Values) -> float:
    x, y = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
    if x.shape != y.shape or x.ndim != 1 or x.size < 2:
        raise ValueError(f"predictions {x.shape} and mos {y.shape} must have the same length, at least 2")
    for name, values in (("predictions", x), ("mos", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite, first at index {np.argmin(np.isfinite(values))}")
        if np.ptp(values) == 0:
            raise ValueError(f"{name} are all equal to {values[0]}; a correlation is undefined")
    value = float(correlation(x, y).statistic)
    if not np.isfinite(value):
        raise ValueError("predictions or mos are equal up to rounding; a correlation is undefined")
    return float(np.clip(value, -1.0, 1.0))
