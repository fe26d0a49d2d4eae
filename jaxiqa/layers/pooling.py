"""Pooling, and the Lipschitz constant of each form in the Euclidean norm.

With windows of length k every s values, a value is in at most m windows per axis; m = 1 if windows do not overlap.
Averages are linear and separable, so their constant is a product of two exact singular values. Maxima and root mean
squares reach their constant at a single large value.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.precision import at_least_float32


def windows(side: int, window: int, stride: int) -> np.ndarray:
    """Return which values of an axis each window covers: 0/1, ``windows side``."""
    starts = np.arange(0, side - window + 1, stride)
    return (np.arange(side) >= starts[:, None]) & (np.arange(side) < starts[:, None] + window)


@at_least_float32
def average_pool(x: Float[Array, "b h w c"], window: int, stride: int | None = None) -> Float[Array, "b h2 w2 c"]:
    """Return means of window×window pixels; by default, windows do not overlap.

    >>> average_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    stride = stride or window
    return nnx.avg_pool(x, (window, window), strides=(stride, stride))


def average_pool_constant(size: tuple[int, int], window: int, stride: int | None = None) -> float:
    """Return the exact constant of `average_pool` on an h×w map; 1/window if windows do not overlap.

    >>> average_pool_constant((8, 6), 2)
    0.5
    """
    axes = [windows(side, window, stride or window) / window for side in size]
    return float(np.prod([np.linalg.norm(axis, 2) for axis in axes]).round(14))


@partial(jax.jit, static_argnames=("window", "stride"))
@at_least_float32
def l2_pool(x: Float[Array, "b h w c"], window: int, stride: int | None = None) -> Float[Array, "b h2 w2 c"]:
    """Return Euclidean norms over window×window pixels, per channel; a window of zeros has gradient zero.

    >>> l2_pool(jnp.array([3.0, 0.0, 0.0, 4.0]).reshape(1, 2, 2, 1), 2).item()
    5.0
    """
    stride = stride or window
    squares = nnx.avg_pool(jnp.square(x), (window, window), strides=(stride, stride)) * window**2
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


@jax.jit
@at_least_float32
def global_l2_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Return the Euclidean norm of every channel: 1-Lipschitz. A channel of zeros has gradient zero.

    >>> global_l2_pool(jnp.array([3.0, 0.0, 4.0]).reshape(1, 1, 3, 1)).item()
    5.0
    """
    squares = jnp.sum(jnp.square(x), axis=(1, 2))
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


@at_least_float32
def sorted_energies(x: Float[Array, "b h w c"], cell: int, groups: int) -> Float[Array, "b k c"]:
    """Return how the energy of each channel is spread over the image, without the places: 1-Lipschitz.

    The norms over cells of cell×cell pixels are sorted in descending order, and divided into ``groups`` groups of
    ⌈cells/groups⌉ neighbours. The norm of each group is returned. Cells at the lower and right border are filled up by
    zeros, the last groups too. Sorting moves two vectors no further apart, so none of the steps amplifies a change.

    Args:
        x: feature maps of any size.
        cell: side of a cell, in pixels.
        groups: k.

    Raises:
        ValueError: ``cell`` or ``groups`` is below 1.

    >>> x = jnp.array([[0.0, 3.0, 1.0], [0.0, 4.0, 0.0]])[None, ..., None]
    >>> sorted_energies(x, 1, 3)[0, :, 0].tolist(), sorted_energies(x, 2, 2)[0, :, 0].tolist()
    ([5.0, 1.0, 0.0], [5.0, 1.0])
    """
    check_number("cell", cell, 1)
    check_number("groups", groups, 1)
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % cell), (0, -w % cell), (0, 0)))
    cells = l2_pool(x, cell).reshape(b, -1, c)
    cells = jnp.pad(jnp.sort(cells, axis=1)[:, ::-1], ((0, 0), (0, -cells.shape[1] % groups), (0, 0)))
    return global_l2_pool(cells.reshape(b * groups, -1, 1, c)).reshape(b, groups, c)


def coverage(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> int:
    """Return the largest number of windows that contain one pixel.

    √coverage is the exact constant of `l2_pool` and of max pooling: if one pixel is the only non-zero or the largest
    one, that many outputs change as much as it does.

    >>> coverage((5, 5), (3, 3), (1, 1)), coverage((8, 8), (2, 2), (2, 2))
    (9, 1)
    """
    axes = zip(size, window, stride, strict=True)
    return int(np.prod([windows(*axis).sum(0).max() for axis in axes]))


def square_window(size: tuple[int, int]) -> tuple[int, int]:
    """Return the window of `square_pool` on an h×w map; raise ``ValueError`` if the map is too small."""
    h, w = size
    side, difference = -(-min(h, w) // 50) + 1, abs(h - w)
    if not difference:
        return 1, 1
    if side > min(h, w):
        raise ValueError(f"a {h}x{w} map is too small to be pooled to a square")
    return (side, side + difference) if h < w else (side + difference, side)


def square_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b n n c"]:
    """Max-pool a map to a square, as before the Cayley layers of arXiv:2506.04951.

    With Δ = |h − w| and u = ⌈shorter/50⌉ + 1 the window is u along the shorter side and u + Δ along the longer one,
    stride 1, so both sides become shorter − u + 1. A square map is returned unchanged.

    >>> square_pool(jnp.zeros((1, 32, 42, 2))).shape, square_pool(jnp.zeros((1, 42, 32, 2))).shape
    ((1, 31, 31, 2), (1, 31, 31, 2))

    **Differs from the paper**: portrait maps are handled like landscape ones (the paper's code fails on them).
    """
    window = square_window((x.shape[1], x.shape[2]))
    return x if window == (1, 1) else nnx.max_pool(x, window, strides=(1, 1))


def square_pool_constant(size: tuple[int, int]) -> float:
    """Return the exact constant of `square_pool` on an h×w map, √`coverage`: **not** 1 unless the map is square.

    >>> square_pool_constant((4, 4)), square_pool_constant((32, 42))
    (1.0, 4.898979485566356)
    """
    return float(np.sqrt(coverage(size, square_window(size), (1, 1))))


class SquarePool(nnx.Module):
    """`square_pool` as a stage of a network."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n n c"]:
        return square_pool(x)
