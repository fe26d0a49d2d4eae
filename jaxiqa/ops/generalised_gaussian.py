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

TINY = 1e-12
"""Variances below this are taken as this."""


def _log_ratio(alpha: float) -> float:
    return 2 * math.lgamma(2 / alpha) - math.lgamma(1 / alpha) - math.lgamma(3 / alpha)


_SHAPES = np.geomspace(LOWEST, HIGHEST, 1024)
_LOG_RATIOS = np.array([_log_ratio(alpha) for alpha in _SHAPES])


@at_least_float32
def moment_ratio(shape: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ``(mean |x|)² / mean x²`` of the density ``∝ exp(−|x|^α)``: ``Γ(2/α)² / (Γ(1/α) Γ(3/α))``.

    It rises with α: 0 for α → 0, ½ for α = 1 (Laplace), 2/π for α = 2 (Gauss), ¾ for α → ∞ (uniform).

    >>> [f"{value:.4f}" for value in moment_ratio(jnp.array([0.5, 1.0, 2.0]))]
    ['0.3000', '0.5000', '0.6366']
    """
    return jnp.exp(2 * gammaln(2 / shape) - gammaln(1 / shape) - gammaln(3 / shape))


@at_least_float32
def shape_of_ratio(ratio: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the shape α with ``moment_ratio(α) = ratio``: the exact inverse, with its implicit derivative.

    A table gives the start of two Newton steps in ``ln α``. The derivative is ``1 / moment_ratio'(α)``, in both modes
    and of any order. Ratios outside those of `LOWEST` and `HIGHEST` give these shapes, with a gradient of 0.

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
def signed_moments(values: Float[Array, "b n"]) -> Float[Array, "b 4"]:
    """Return mean |x|, mean x², the mean of x² over negative values, and over all others, of each row.

    A mean over no values is 0. The numbers of negative and other values count as constants in derivatives.

    >>> [f"{value:.3f}" for value in signed_moments(jnp.array([[-2.0, 0.0, 1.0, 1.0]]))[0]]
    ['1.000', '1.500', '4.000', '0.667']
    """
    square, negative = values**2, values < 0
    left, right = (
        jnp.where(side, square, 0).sum(1) / jnp.maximum(side.sum(1), 1).astype(values.dtype)
        for side in (negative, ~negative)
    )
    return jnp.stack([jnp.abs(values).mean(1), square.mean(1), left, right], axis=1)


@at_least_float32
def fit_asymmetric(moments: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Fit an asymmetric generalised Gaussian to `signed_moments`: the shape α, the mean η, σ_left² and σ_right².

    ``σ_left²`` and ``σ_right²`` are the mean squares of negative and of other values. With ``γ = σ_left / σ_right``,

        moment_ratio(α) = R = (mean |x|)² / mean x² · (γ³ + 1)(γ + 1) / (γ² + 1)²,  η = (σ_right − σ_left) · √R

    (in the source, √R is written ``Γ(2/α) / √(Γ(1/α) Γ(3/α))``).

    **Differs from the source**, which finds α in a table; and from programs that find the root and fail if there is
    none: here α is limited to 0.05 … 50.

    >>> values = jax.random.normal(jax.random.key(0), (1, 100_000)) * 3
    >>> [f"{value:.1f}" for value in fit_asymmetric(signed_moments(values))[0]]
    ['2.0', '0.0', '9.0', '9.0']

    Reference: Lasmar et al., "Multiscale skewed heavy tailed model for texture analysis", 2009.
    """
    absolute, square, left, right = jnp.moveaxis(moments, -1, 0)
    sigma_left, sigma_right = (jnp.sqrt(jnp.maximum(variance, TINY)) for variance in (left, right))
    gamma = sigma_left / sigma_right
    gamma = jnp.minimum(gamma, 1 / gamma)  # the factor below is the same for both, and the smaller does not overflow
    ratio = absolute**2 / jnp.maximum(square, TINY) * (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
    shape = shape_of_ratio(ratio)
    mean = (sigma_right - sigma_left) * jnp.sqrt(moment_ratio(shape))
    return jnp.stack([shape, mean, left, right], axis=-1)
