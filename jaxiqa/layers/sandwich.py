"""Sandwich layers: an activation between two halves of one orthogonal map."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.layers.fourier import phases, response, through_frequencies
from jaxiqa.layers.linear_algebra import HIGHEST, full
from jaxiqa.layers.unitary import semi_orthogonal


class Sandwich(nnx.Module):
    """``y = √2 AᴴΨ ReLU(√2 Ψ⁻¹Bx + b)``, circular, with AAᴴ + BBᴴ = I at every frequency and Ψ = diag(e^d) learned.

    **1-Lipschitz, not orthogonal**, and non-linear. [A B] is the adjoint of a (cin + cout)×cout matrix that the Cayley
    transform makes semi-orthogonal, exact up to rounding (5e-6).

    Args:
        cin, cout: channels.
        kernel_size: taps of the generating kernel.
        rngs: random numbers for the weights.

    >>> Sandwich(3, 5, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 5, 3))).shape
    (1, 6, 5, 5)

    Reference: Wang and Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", arXiv:2301.11526.
    """

    def __init__(self, cin: int, cout: int, *, kernel_size: tuple[int, int] = (3, 3), rngs: nnx.Rngs):
        check_number("min(cin, cout)", min(cin, cout), 1)
        scale = 1 / np.sqrt(cout * kernel_size[0] * kernel_size[1])
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (*kernel_size, cin + cout, cout)))
        self.bias = nnx.Param(jnp.zeros(cout))
        self.log_psi = nnx.Param(jnp.zeros(cout))
        self.cin, self.cout = cin, cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        x, kernel, psi = full(x), full(self.kernel[...]), jnp.exp(full(self.log_psi[...]))
        (kh, kw, *_), (_, h, w, _) = kernel.shape, x.shape
        phase = phases((kh, kw), (h, w))
        q = semi_orthogonal(response(kernel, phase, 1))
        a, b = q[:, :, : self.cout], jnp.conj(q[:, :, self.cout :])
        inner = through_frequencies(x, lambda z: jnp.einsum("fbgi,fgio->fbgo", z, b, precision=HIGHEST))
        inner = psi * jax.nn.relu(np.sqrt(2) / psi * inner + self.bias[...])
        return np.sqrt(2) * through_frequencies(inner, lambda z: jnp.einsum("fbgi,fgoi->fbgo", z, a, precision=HIGHEST))
