"""The end point of a distribution: the reverse Weibull distribution, fitted to maxima."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

STARTS = 32
"""Number of locations at which the likelihood is computed, evenly spaced on a log axis, before the best is refined."""

SHAPES = (1.0, 1e4)
"""Allowed shapes. Below 1 the density is infinite at the end point, so the largest sample would always fit best."""


@dataclass(frozen=True)
class WeibullFit:
    """Maximum-likelihood fit of ``P(X ≤ x) = exp(−((location − x) / scale)^shape)``.

    Attributes:
        location: the end point of the distribution.
        shape, scale: of the distribution.
        p_value: of the Kolmogorov–Smirnov test; small if the distribution does not fit.
        found: False if the likelihood is largest at the highest location allowed, so that no end point is found.
    """

    location: float
    shape: float
    scale: float
    p_value: float
    found: bool


def fit_reverse_weibull(samples: Float[np.ndarray, " n"], *, limit: float = 2.0) -> WeibullFit:
    """Fit the distribution with its location between the largest sample and ``limit`` times that.

    For each location, the best shape and scale are found directly, so only one number is searched. If samples are equal
    up to rounding, the end point is their maximum.

    Args:
        samples: positive; two or more.
        limit: > 1.

    >>> draws = 3 - np.random.default_rng(0).weibull(2.0, 500)
    >>> round(fit_reverse_weibull(draws[draws > 0]).location, 1)
    3.0
    """
    from scipy import optimize, stats

    samples = np.asarray(samples, np.float64)
    top, spread = float(samples.max()), float(samples.std())
    if spread <= 1e-6 * top:
        return WeibullFit(top, math.inf, 0.0, 1.0, True)
    low, high = math.log(1e-3 * spread), math.log((limit - 1) * top)
    if high <= low:
        raise ValueError(f"limit={limit} leaves no room above the largest of these samples, {top}")

    def loss(log_offset: float) -> float:
        return -_profile(samples, top + math.exp(log_offset))[0]

    starts = np.linspace(low, high, STARTS)
    losses = [loss(start) for start in starts]
    best = int(np.argmin(losses))
    around = (starts[max(best - 1, 0)], starts[min(best + 1, STARTS - 1)])
    refined = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6})
    offset = float(refined.x) if refined.fun < losses[best] else float(starts[best])
    location = top + math.exp(offset)
    _, shape, scale = _profile(samples, location)
    found = math.isfinite(scale) and offset < high - 1e-3
    p_value = stats.kstest(samples, "weibull_max", (shape, location, scale)).pvalue if found else math.nan
    return WeibullFit(location, shape, scale, float(p_value), found)


def _profile(samples: np.ndarray, location: float) -> tuple[float, float, float]:
    """Return log-likelihood, shape and scale of the best distribution that ends at ``location``."""
    from scipy import optimize

    distance = location - samples
    unit = np.max(distance)
    logs: np.ndarray = np.log(distance / unit)  # at most 0, so no power overflows

    def slope(shape: float) -> float:  # derivative of the log-likelihood by the shape, negated; it increases
        powers = np.exp(shape * logs)
        return float((powers * logs).sum() / powers.sum() - logs.mean() - 1 / shape)

    low, high = SHAPES
    shape = low if slope(low) >= 0 else high if slope(high) <= 0 else float(optimize.brentq(slope, low, high))
    mean_power = np.exp(shape * logs).mean()
    scale = unit * mean_power ** (1 / shape)
    n = len(samples)
    likelihood = n * math.log(shape / unit) - n * math.log(mean_power) + (shape - 1) * logs.sum() - n
    return float(likelihood), shape, float(scale)
