"""Bounds of a convolution that depend only on its kernel and hold for maps of any size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import HIGHEST

Kernel = Float[Array, "kh kw cin cout"]


@at_least_float32
def norm_bound(kernel: Kernel) -> Float[Array, ""]:
    """Return an upper bound of the spectral norm of a convolution, stride 1, zero-padded or circular, for any map size.

    It is √(kh·kw) times the smallest spectral norm among four ways to write the kernel as a matrix.

    Reference: Singla and Feizi, "Fantastic Four: Differentiable Bounds on Singular Values of Convolution Layers",
    arXiv:1911.10258.

    >>> float(norm_bound(jnp.ones((1, 1, 2, 2))))
    2.0...
    """
    kh, kw, cin, cout = kernel.shape
    shapes = (
        kernel.transpose(3, 0, 2, 1).reshape(cout * kh, cin * kw),
        kernel.transpose(3, 1, 2, 0).reshape(cout * kw, cin * kh),
        kernel.transpose(3, 2, 0, 1).reshape(cout, -1),
        kernel.transpose(2, 3, 0, 1).reshape(cin, -1),
    )
    return jnp.sqrt(kh * kw) * jnp.stack([jnp.linalg.norm(matrix, 2) for matrix in shapes]).min()


@at_least_float32
def overlaps(kernel: Kernel) -> Float[Array, "cin cin"]:
    """Return Σ over shifts of |Σ_{t,o} kernel[t, i, o] · kernel[t + shift, j, o]|: bounds the rows of |WᵀW|, i by j.

    >>> overlaps(jnp.array([1.0, -2.0]).reshape(2, 1, 1, 1)).item()  # shifts -1, 0, 1: |-2| + 5 + |-2|
    9.0
    """
    kh, kw = kernel.shape[:2]
    pads = ((kh - 1, kh - 1), (kw - 1, kw - 1))
    products = jax.lax.conv_general_dilated(
        kernel.transpose(2, 0, 1, 3),
        kernel.transpose(0, 1, 3, 2),
        (1, 1),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )
    return jnp.abs(products).sum((1, 2))


@at_least_float32
def convolve(x: Float[Array, "b h w cin"], kernel: Kernel) -> Float[Array, "b h w cout"]:
    """Compute a zero-padded convolution (correlation, as in networks) of the map's size, at full precision."""
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )


def transposed(kernel: Kernel) -> Float[Array, "kh kw cout cin"]:
    """Return the kernel of the adjoint convolution; sides must be odd."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def check_odd(kernel_size: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless both sides are odd, so that zero padding is the same on all sides."""
    if min(kernel_size) < 1 or not all(side % 2 for side in kernel_size):
        raise ValueError(f"kernel_size={kernel_size} is not allowed; both sides must be odd")
