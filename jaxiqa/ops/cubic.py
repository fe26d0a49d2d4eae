"""Bicubic resizing as by OpenCV's ``INTER_CUBIC``, which JAX and Pillow do not offer."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32


@at_least_float32
def resize_cubic(images: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Resize images to ``size`` without smoothing, and clip to [0, 1] like 8-bit results.

    Output pixel i of an axis is at ``p = (i + ½) · side / size - ½`` and is ``Σ_j k(p - j) x_j`` over the four
    nearest j; pixels outside repeat the border. ``k(d) = (a + 2) d³ - (a + 3) d² + 1`` for d = |p - j| < 1 and
    ``a (d³ - 5 d² + 8 d - 4)`` beyond, with a = -0.75 (`jax.image.resize` and Pillow use -0.5).

    **Differs from OpenCV**, which has 11-bit weights for 8-bit images and rounds its result to 8 bits.

    Args:
        images: in [0, 1].
        size: (height, width) of the result, at least 1.

    Raises:
        ValueError: bad images, or a size below 1.

    >>> row = jnp.array([0.0, 0.5, 0.5, 0.5]).reshape(1, 1, 4, 1)
    >>> print(resize_cubic(row, (1, 2)).ravel())
    [0.25 0.5 ]
    """
    check_images("images", images)
    for side in size:
        check_number("size", side, 1)
    rows, columns = (
        jnp.asarray(cubic_weights(side, out), images.dtype) for side, out in zip(images.shape[1:3], size, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST
    resized = jnp.einsum("ih,bhwc->biwc", rows, images, precision=highest)
    resized = jnp.einsum("jw,biwc->bijc", columns, resized, precision=highest)
    # Rounding errors must not zero the gradient of flat black and white.
    return jnp.where(jnp.abs(resized - 0.5) <= 0.5 + 1e-6, resized, jnp.clip(resized, 0, 1))


@cache
def cubic_weights(side: int, size: int) -> Float[np.ndarray, "size side"]:
    """Return the weights of `resize_cubic` along one axis; every row sums to one.

    >>> cubic_weights(4, 2).tolist()
    [[0.5, 0.59375, -0.09375, 0.0], [0.0, -0.09375, 0.59375, 0.5]]
    """
    a = -0.75
    position = (np.arange(size) + 0.5) * side / size - 0.5
    weights = np.zeros((size, side))
    for offset in (-1, 0, 1, 2):
        j = np.floor(position) + offset
        d = np.abs(position - j)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        np.add.at(weights, (np.arange(size), np.clip(j, 0, side - 1).astype(int)), np.where(d <= 1, near, far))
    return weights
