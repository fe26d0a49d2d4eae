"""Resizing by quadratic splines, as by scikit-image's ``order=2``."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32

POLE = 2 * np.sqrt(2) - 3
"""The response of one pixel falls by this factor per pixel: −0.17."""

REACH = 24
"""Pixels after which the response, 0.17²⁴, is below the rounding of float64."""

BORDERS = ("mirror", "zero")


@at_least_float32
def resize_spline(
    images: Float[Array, "b h w c"], size: tuple[int, int], *, border: str = "mirror"
) -> Float[Array, "b h2 w2 c"]:
    """Resize images to ``size`` without smoothing, by the quadratic spline that passes through all pixels.

    Along each axis, pixel i of the result is ``Σ_j η(p_i − j) x_j`` at ``p_i = (i + ½) · side / size − ½``, see
    `spline_weights`. The result may lie outside the range of the image.

    Args:
        images: of any range.
        size: (height, width) of the result, at least 1.
        border: ``"mirror"`` mirrors the image about its outermost pixels, as ``scipy.ndimage.map_coordinates`` does
            with ``mode="constant"``; ``"zero"`` takes pixels outside as 0, as with ``mode="grid-constant"``.

    Raises:
        ValueError: bad images, a size below 1, or an unknown border.

    >>> row = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1)
    >>> [f"{value:.3f}" for value in resize_spline(row, (1, 2)).ravel()]
    ['-0.071', '1.071']

    Reference: Unser et al., "B-Spline Signal Processing", 1993.
    """
    check_images("images", images)
    for side in size:
        check_number("size", side, 1)
    rows, columns = (
        jnp.asarray(spline_weights(side, out, border), images.dtype)
        for side, out in zip(images.shape[1:3], size, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST
    resized = jnp.einsum("ih,bhwc->biwc", rows, images, precision=highest)
    return jnp.einsum("jw,biwc->bijc", columns, resized, precision=highest)


@cache
def spline_weights(side: int, size: int, border: str) -> Float[np.ndarray, "size side"]:
    """Return the weights of `resize_spline` along one axis.

    The weight of pixel j at position p is ``η(p − j)``, ``η(d) = Σ_k h_k β(d − k)``. β is the quadratic B-spline:
    ``¾ − d²`` up to |d| = ½, ``½ (3/2 − |d|)²`` up to 3/2. ``h_k = −8 a / (1 − a²) · a^|k|`` with a = 2 √2 − 3, which
    makes η one at 0 and zero at all other whole numbers. Pixels outside the image are mirrored, or have no weight.

    Raises:
        ValueError: an unknown border.

    >>> abs(spline_weights(4, 2, "mirror")).round(3).tolist()
    [[0.586, 0.486, 0.086, 0.014], [0.014, 0.086, 0.486, 0.586]]
    """
    check_choice("border", border, BORDERS)
    position = (np.arange(size) + 0.5) * side / size - 0.5
    nearest = np.floor(position + 0.5)
    weights = np.zeros((size, side))
    rows = np.arange(size)
    for tap in nearest + np.array([[-1.0], [0.0], [1.0]]):
        d = np.abs(position - tap)
        beta = np.where(d <= 0.5, 0.75 - d**2, 0.5 * (1.5 - d) ** 2)
        for k in range(-REACH, REACH + 1):
            value = beta * (-8 * POLE / (1 - POLE**2) * POLE ** abs(k))
            j = (tap + k).astype(int)
            if border == "mirror":
                j = np.abs(j) % max(2 * side - 2, 1)
                j = np.minimum(j, max(2 * side - 2, 1) - j) if side > 1 else np.zeros_like(j)
            inside = (j >= 0) & (j < side)
            np.add.at(weights, (rows[inside], j[inside]), value[inside])
    return weights
