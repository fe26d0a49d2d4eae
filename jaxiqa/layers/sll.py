"""Residual layers that are 1-Lipschitz as descent steps of a convex potential: SLL, and its predecessor CPL."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.layers.kernel_bounds import Kernel, check_odd, convolve, norm_bound, overlaps, transposed
from jaxiqa.layers.linear_algebra import full


def descend(
    x: Float[Array, "b h w c"], kernel: Kernel, bias: Float[Array, " inner"], bound: Float[Array, "*inner"]
) -> Float[Array, "b h w c"]:
    """Compute ``x − 2W T⁻¹ ReLU(Wᵀx + b)``, Wᵀ the zero-padded convolution by ``kernel``: 1-Lipschitz if WᵀW ⪯ T."""
    x = full(x)
    inner = jax.nn.relu(convolve(x, kernel) + bias)
    return x - 2 * convolve(inner / jnp.maximum(bound, 1e-12), transposed(kernel))


class SLL(nnx.Module):
    """SDP-based layer: `descend` with T = diag(Σ_j |WᵀW|_ij · q_j/q_i), q > 0 learned.

    **1-Lipschitz, not orthogonal**, and non-linear: it contains the activation. ``c → c`` channels only.

    Args:
        cin, cout: channels, equal.
        inner: channels of the hidden map; ``cin`` by default.
        kernel_size: odd sides.
        rngs: random numbers for the weights.

    >>> SLL(4, 4, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 5, 4))).shape
    (1, 6, 5, 4)

    Reference: Araujo et al., "A Unified Algebraic Perspective on Lipschitz Neural Networks", arXiv:2303.03169.

    **Differs from the authors' convolution**, where both q are broadcast along the same axis and cancel.
    """

    def __init__(
        self, cin: int, cout: int, *, inner: int | None = None, kernel_size: tuple[int, int] = (3, 3), rngs: nnx.Rngs
    ):
        self.kernel, self.bias = _weights(cin, cout, inner, kernel_size, rngs)
        self.log_q = nnx.Param(jnp.zeros(inner or cin))
        self.cin, self.cout = cin, cout

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        kernel, q = full(self.kernel[...]), jnp.exp(self.log_q[...])
        bound = overlaps(kernel.swapaxes(2, 3)) @ q / q
        return descend(x, kernel, self.bias[...], bound)


class CPL(nnx.Module):
    """Convex potential layer: `descend` with T = ‖W‖², where an upper bound replaces the norm, valid at every size.

    **1-Lipschitz, not orthogonal**, non-linear, ``c → c``; arguments as in `SLL`.

    >>> CPL(4, 4, rngs=nnx.Rngs(0))(jnp.ones((1, 6, 5, 4))).shape
    (1, 6, 5, 4)

    Reference: Meunier et al., "A Dynamical System Perspective for Lipschitz Neural Networks", arXiv:2110.12690.

    **Differs from the paper**: the norm is bounded from above; the paper's power iteration estimates it from below.
    """

    def __init__(
        self, cin: int, cout: int, *, inner: int | None = None, kernel_size: tuple[int, int] = (3, 3), rngs: nnx.Rngs
    ):
        self.kernel, self.bias = _weights(cin, cout, inner, kernel_size, rngs)
        self.cin, self.cout = cin, cout

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        kernel = full(self.kernel[...])
        return descend(x, kernel, self.bias[...], norm_bound(kernel) ** 2)


def _weights(
    cin: int, cout: int, inner: int | None, kernel_size: tuple[int, int], rngs: nnx.Rngs
) -> tuple[nnx.Param, nnx.Param]:
    check_odd(kernel_size)
    if cin != cout:
        raise ValueError(f"cin={cin} and cout={cout} differ; a residual layer keeps its channels")
    kernel = nnx.initializers.lecun_normal()(rngs.params(), (*kernel_size, cin, inner or cin))
    return nnx.Param(kernel), nnx.Param(jnp.zeros(inner or cin))
