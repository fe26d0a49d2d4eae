"""Soft thresholding of Fourier coefficients: small ones become zero, large ones lose a fixed amount.

Noise of deviation σ per pixel has orthonormal coefficients of deviation σ, while the content of a map is in few large
ones. So a threshold is in the units of the features. Reference: Donoho, "De-noising by soft-thresholding", IEEE
Transactions on Information Theory 41 (1995). **Differs from the paper**: a Fourier basis instead of a wavelet basis,
and learned thresholds.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Complex, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.fourier import from_frequencies, to_frequencies


@jax.jit
def soft_threshold(z: Complex[Array, "*n c"], threshold: Float[Array, " c"]) -> Complex[Array, "*n c"]:
    """Shrink each complex number towards zero: z · max(0, 1 − τ/|z|). It is 1-Lipschitz.

    >>> soft_threshold(jnp.array([[3.0 + 4.0j], [0.1j]]), jnp.array([2.5])).tolist()
    [[(1.5+2j)], [0j]]
    """
    squared = jnp.square(z.real) + jnp.square(z.imag)
    above = squared > threshold**2
    # The root of zero is avoided: its derivative is infinite.
    magnitude = jnp.sqrt(jnp.where(above, squared, 1.0))
    return jnp.where(above, z * (1 - threshold / magnitude), 0)


def inverse_softplus(value: float) -> Float[Array, ""]:
    """Return p with log(1 + exp(p)) = ``value`` > 0: log(exp(value) − 1), written so that it cannot overflow.

    >>> float(jax.nn.softplus(inverse_softplus(500.0)))
    500.0
    """
    return value + jnp.log(-jnp.expm1(-value))


@at_least_float32
def shrink_frequencies(x: Float[Array, "b h w c"], threshold: Float[Array, " c"]) -> Float[Array, "b h w c"]:
    """Shrink the orthonormal Fourier coefficients of every channel by `soft_threshold`. It is 1-Lipschitz.

    The map repeats beyond its edges, as in every circular convolution. Any h and w.

    Args:
        x: the map.
        threshold: at least 0, in the units of ``x``.

    >>> x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)  # coefficients (4, -4) / √2
    >>> shrink_frequencies(x, jnp.array([2**0.5])).ravel().round(4).tolist()
    [0.0, 2.0]
    """
    return from_frequencies(soft_threshold(to_frequencies(x), threshold), (x.shape[1], x.shape[2]))


class Shrinkage(nnx.Module):
    """`shrink_frequencies` as a stage of a network, with one learned threshold per channel: log(1 + exp(p)).

    Args:
        features: channels.
        shrink: the initial threshold, positive, in the units of the features.

    Raises:
        ValueError: a threshold that is not positive.

    >>> Shrinkage(8, 0.1)(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, features: int, shrink: float):
        check_number("shrink", shrink, 0.0, open_low=True)
        self.threshold = nnx.Param(jnp.full(features, inverse_softplus(shrink)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return shrink_frequencies(x, jax.nn.softplus(self.threshold[...]))
