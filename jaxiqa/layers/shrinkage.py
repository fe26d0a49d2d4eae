"""Shrinkage in the Fourier domain: what is weak at a frequency is removed, what is strong hardly changes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float

from jaxiqa.core.checks import check_option
from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.fourier import from_frequencies, to_frequencies


@jax.jit
def soft_threshold(z: Complex[Array, "*n c"], threshold: Float[Array, "*m c"]) -> Complex[Array, "*n c"]:
    """Shrink each complex number towards zero: z · max(0, 1 − τ/|z|). It is 1-Lipschitz.

    Args:
        z: complex numbers.
        threshold: τ ≥ 0, one per channel, or of a shape that is broadcast to that of ``z``.

    >>> soft_threshold(jnp.array([[3.0 + 4.0j], [0.1j]]), jnp.array([2.5])).tolist()
    [[(1.5+2j)], [0j]]
    """
    squared = jnp.square(z.real) + jnp.square(z.imag)
    above = squared > threshold**2
    # The root of zero is avoided: its derivative is infinite.
    magnitude = jnp.sqrt(jnp.where(above, squared, 1.0))
    return jnp.where(above, z * (1 - threshold / magnitude), 0)


@at_least_float32
def shrink(x: Float[Array, "b h w c"], threshold: Float[Array, " c"]) -> Float[Array, "b h w c"]:
    """Apply `soft_threshold` to the Fourier coefficients of every channel, except the mean: 1-Lipschitz, any h and w.

    The mean of a channel is what a global pooling reads; it is far stronger than the other coefficients, so its
    shrinkage would only shift it.

    Args:
        x: feature maps.
        threshold: per channel, at least 0, in units of orthonormal coefficients: white noise of deviation σ has
            coefficients of root mean square σ.

    >>> x = jnp.array([4.0, 5.0, 4.0, 5.0]).reshape(1, 1, 4, 1)
    >>> shrink(x, jnp.array([0.5])).ravel().tolist()  # the coefficient of the stripes goes from 1 to 0.5
    [4.25, 4.75, 4.25, 4.75]

    Reference: Donoho, "De-noising by Soft-Thresholding", IEEE Transactions on Information Theory 41(3), 1995.
    """
    z = to_frequencies(x)
    free = np.ones((*z.shape[1:3], 1))
    free[0, 0] = 0  # the mean
    return from_frequencies(soft_threshold(z, threshold * jnp.asarray(free, threshold.dtype)), (x.shape[1], x.shape[2]))


def threshold_parameter(initial: float, channels: int) -> Float[Array, " channels"]:
    """Return p with softplus(p) = ``initial``: log(exp(initial) − 1), written so that it cannot overflow."""
    return jnp.full(channels, initial + jnp.log(-jnp.expm1(-initial)))


class Shrinkage(nnx.Module):
    """`shrink` with a learned threshold per channel, softplus(p), as a stage of a network.

    Args:
        features: input and output channels.
        threshold: at the start, > 0, in the units of the features.

    >>> block = Shrinkage(8, threshold=0.1)
    >>> block(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, features: int, *, threshold: float):
        check_option("threshold", threshold, open_low=True)
        self.threshold = nnx.Param(threshold_parameter(threshold, features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return shrink(x, jax.nn.softplus(self.threshold[...]))
