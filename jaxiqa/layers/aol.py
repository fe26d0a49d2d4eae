"""Almost orthogonal convolutions: the kernel is rescaled so that its convolution cannot amplify."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.kernel_bounds import Kernel, check_odd, convolve, overlaps
from jaxiqa.layers.linear_algebra import full


@at_least_float32
def almost_orthogonal(kernel: Kernel) -> Kernel:
    """Return the kernel with input channel i divided by the root of Σ_j |WᵀW|_ij.

    >>> almost_orthogonal(3 * jnp.ones((1, 1, 1, 1))).item()
    1.0
    """
    sums = overlaps(kernel).sum(1)
    positive = sums > 0
    return kernel * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, sums, 1)), 0)[:, None]


class AOL(nnx.Module):
    """``y = W·diag(Σ_j |WᵀW|_ij)^−½ x + bias``, zero-padded.

    **1-Lipschitz, not orthogonal**: the largest singular value is at most 1 exactly, the others are smaller; training
    increases them. It is the cheapest of the baselines: after scaling the kernel, one plain convolution.

    Args:
        cin, cout: channels.
        kernel_size: odd sides.
        use_bias: add one learned number per output channel.
        rngs: random numbers for the weights.

    >>> AOL(3, 5, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 5, 3))).shape
    (1, 6, 5, 5)

    Reference: Prach and Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks",
    arXiv:2208.03160.
    """

    def __init__(
        self, cin: int, cout: int, *, kernel_size: tuple[int, int] = (3, 3), use_bias: bool = True, rngs: nnx.Rngs
    ):
        check_odd(kernel_size)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (*kernel_size, cin, cout)))
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None
        self.cin, self.cout = cin, cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        y = convolve(full(x), almost_orthogonal(full(self.kernel[...])))
        return y if self.bias is None else y + self.bias[...]
