"""Skew orthogonal convolutions: the exponential of a skew-symmetric convolution, by its power series."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.layers.kernel_bounds import check_odd, convolve, norm_bound, transposed
from jaxiqa.layers.linear_algebra import full

LIMIT = 2.1
"""Upper bound of the exponent's norm, as in the authors' 3×3 layers."""


class SOC(nnx.Module):
    """``y = Σ_{n ≤ terms} Lⁿx/n! + bias`` with a zero-padded convolution L = −Lᵀ, ‖L‖ ≤ 2.1.

    **Orthogonal up to its series**: every singular value is within 2.1^(terms+1)/(terms+1)! of 1, which is 2.5e-6 with
    12 terms and 0.12 with the authors' 5 terms of training. Zero padding keeps this, since the padded operator is skew
    too. Unequal channels: zeros are appended (cin < cout: an isometry) or channels dropped (cin > cout: a co-isometry).
    Every call costs ``terms`` convolutions, also in inference.

    Args:
        cin, cout: channels.
        kernel_size: odd sides.
        terms: number of terms of the series after the first.
        use_bias: add one learned number per output channel.
        rngs: random numbers for the weights.

    >>> layer = SOC(3, 5, use_bias=False, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(1), (1, 6, 5, 3))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True

    Reference: Singla and Feizi, "Skew Orthogonal Convolutions", arXiv:2105.11417.

    **Differs from the paper**: the kernel is scaled by a certified bound; the paper uses power iteration, which
    estimates the norm from below.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        kernel_size: tuple[int, int] = (3, 3),
        terms: int = 12,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        check_odd(kernel_size)
        check_number("terms", terms, 1)
        c = max(cin, cout)
        scale = 1 / np.sqrt(2 * c * kernel_size[0] * kernel_size[1])
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (*kernel_size, c, c)))
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None
        self.cin, self.cout, self.terms = cin, cout, terms

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        x, kernel = full(x), full(self.kernel[...])
        skew = kernel - transposed(kernel)
        skew = skew * jnp.minimum(1, LIMIT / jnp.maximum(norm_bound(skew), 1e-12))
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, max(self.cout - self.cin, 0))))
        total = term = x
        for n in range(1, self.terms + 1):
            term = convolve(term, skew) / n
            total = total + term
        total = total[..., : self.cout]
        return total if self.bias is None else total + self.bias[...]
