"""Resizing with a known Lipschitz constant."""

from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.bilinear import bilinear_weights
from jaxiqa.core.checks import check_size
from jaxiqa.core.precision import at_least_float32


@at_least_float32
def contracting_resize(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """Resize (bilinear, antialiased when shrinking), divided by `resize_constant` where that is above 1.

    So ‖y − y'‖ ≤ ‖x − x'‖. A larger image has more pixels and would have a larger norm: its values become smaller
    instead. A smaller image is resized as usual, and its constant is below 1.

    >>> contracting_resize(jax.numpy.ones((1, 8, 8, 3)), (4, 4))[0, 0, 0].round(5).tolist()
    [1.0, 1.0, 1.0]
    >>> bool(contracting_resize(jax.numpy.ones((1, 4, 4, 3)), (8, 8)).max() < 1)
    True
    """
    shape = (x.shape[0], *size, x.shape[-1])
    resized = jax.image.resize(x, shape, "bilinear", antialias=True)
    return resized / max(1.0, resize_constant((x.shape[1], x.shape[2]), size))


def resize_constant(size: tuple[int, int], new: tuple[int, int]) -> float:
    """Return the exact Lipschitz constant of a bilinear, antialiased resize, in the Euclidean norm.

    The resize is separable, so it is the product of the largest singular values of its two matrices.

    Args:
        size, new: (height, width) before and after.

    Raises:
        ValueError: one of them is no pair of whole numbers of at least 1.

    >>> round(resize_constant((8, 8), (8, 8)), 6), resize_constant((64, 64), (32, 32)) < 0.6
    (1.0, True)
    """
    check_size("size", size)
    check_size("new", new)
    return _largest(size[0], new[0]) * _largest(size[1], new[1])


@lru_cache(maxsize=256)
def _largest(side: int, new: int) -> float:
    matrix = bilinear_weights(side, new, True)
    small = matrix @ matrix.T if new < side else matrix.T @ matrix
    return float(np.sqrt(np.linalg.eigvalsh(small)[-1]))
