"""Fit generalised Gaussian distributions, symmetric or not, to samples by their moments; differentiable."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

LOWEST, HIGHEST = 0.05, 50.0
"""Range of the shape."""

TINY = 1e-20
"""Variances below this are taken as this."""


def _log_ratio(alpha: float) -> float:
    return 2 * math.lgamma(2 / alpha) - math.lgamma(1 / alpha) - math.lgamma(3 / alpha)


_SHAPES = np.geomspace(LOWEST, HIGHEST, 1024)
_LOG_RATIOS = np.array([_log_ratio(alpha) for alpha in _SHAPES])


def moment_ratio(shape: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ``(mean |x|)² / mean x²`` of the density ``∝ exp(−|x|^α)``: ``Γ(2/α)² / (Γ(1/α) Γ(3/α))``.

    It rises with α: 0 for α → 0, ½ for α = 1 (Laplace), 2/π for α = 2 (Gauss), ¾ for α → ∞ (uniform).

    >>> [f"{value:.4f}" for value in moment_ratio(jnp.array([0.5, 1.0, 2.0]))]
    ['0.3000', '0.5000', '0.6366']
    """
    return jnp.exp(2 * gammaln(2 / shape) - gammaln(1 / shape) - gammaln(3 / shape))


def shape_of_ratio(ratio: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the shape α with ``moment_ratio(α) = ratio``: the exact inverse, with its implicit derivative.

    A table gives the start of two Newton steps in ``ln α``. The derivative is ``1 / moment_ratio'(α)``, of any order and
    in both modes. Ratios outside those of `LOWEST` and `HIGHEST` give these shapes, with a gradient of 0.

    >>> [f"{value:.4f}" for value in shape_of_ratio(jnp.array([0.3, 0.5, 2 / jnp.pi, 1.0]))]
    ['0.5000', '1.0000', '2.0000', '50.0000']
    """
    low, high = math.exp(_LOG_RATIOS[0]), math.exp(_LOG_RATIOS[-1])
    return _inverse(jnp.clip(ratio, low, high))


@jax.custom_jvp
def _inverse(ratio: Array) -> Array:
    target = jnp.log(ratio)
    start = jnp.interp(target, jnp.asarray(_LOG_RATIOS, ratio.dtype), jnp.asarray(np.log(_SHAPES), ratio.dtype))
    shape = jnp.exp(start)
    for _ in range(2):
        shape = shape * jnp.exp((target - jnp.log(moment_ratio(shape))) / _slope(shape))
    return jnp.clip(shape, LOWEST, HIGHEST)


@_inverse.defjvp
def _derivative(primals, tangents):
    (ratio,), (change,) = primals, tangents
    shape = _inverse(ratio)
    return shape, change / ratio * shape / _slope(shape)


def _slope(shape: Array) -> Array:
    """Return ``d ln moment_ratio / d ln α``."""
    return (digamma(1 / shape) + 3 * digamma(3 / shape) - 4 * digamma(2 / shape)) / shape


@at_least_float32
def fit_asymmetric(values: Float[Array, "b n"]) -> Float[Array, "b 4"]:
    """Fit an asymmetric generalised Gaussian to each row: the shape α, the mean η, σ_left² and σ_right².

    ``σ_left²`` is the mean of x² over negative values, ``σ_right²`` over all others. With ``γ = σ_left / σ_right``,

        moment_ratio(α) = R = (mean |x|)² / mean x² · (γ³ + 1)(γ + 1) / (γ² + 1)²,  η = (σ_right − σ_left) · √R

    (in the source, √R is written ``Γ(2/α) / √(Γ(1/α) Γ(3/α))``). The numbers of negative and other values count as
    constants in derivatives.

    **Differs from the source**, which finds α in a table; and from programs that find the root and fail if there is
    none: here α is limited to 0.05 … 50, and a side without values has σ² = 0.

    >>> values = jax.random.normal(jax.random.key(0), (1, 100_000)) * 3
    >>> [f"{value:.1f}" for value in fit_asymmetric(values)[0]]
    ['2.0', '0.0', '9.0', '9.0']

    Reference: Lasmar et al., "Multiscale skewed heavy tailed model for texture analysis", 2009.
    """
    negative = values < 0
    square = values**2
    left, right = (_mean(square, side) for side in (negative, ~negative))
    deviations = [jnp.sqrt(jnp.maximum(variance, TINY)) for variance in (left, right)]
    gamma = deviations[0] / deviations[1]
    plain = jnp.abs(values).mean(1) ** 2 / jnp.maximum(square.mean(1), TINY)
    # (γ³ + 1)(γ + 1) / (γ² + 1)² is the same for 1 / γ; the smaller one does not overflow.
    gamma = jnp.minimum(gamma, 1 / gamma)
    shape = shape_of_ratio(plain * (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2)
    mean = (deviations[1] - deviations[0]) * jnp.sqrt(moment_ratio(shape))
    return jnp.stack([shape, mean, left, right], axis=1)


def _mean(values: Array, chosen: Array) -> Array:
    """Return the mean of the chosen values of each row, 0 if there are none."""
    return jnp.where(chosen, values, 0).sum(1) / jnp.maximum(chosen.sum(1), 1)
