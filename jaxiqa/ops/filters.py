"""Weighted means and medians of the pixels around each, per channel.

Images are treated as rows of w · c numbers, in which a shift by one pixel is one by c: compilers for CPUs cannot
vectorise loops over three channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32


def check_window(name: str, size: int) -> None:
    """Raise ``ValueError`` unless ``size`` is an odd whole number >= 1.

    >>> check_window("kernel_size", 4)
    Traceback (most recent call last):
    ValueError: kernel_size=4 is not allowed; expected an odd integer >= 1
    """
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"{name}={size!r} is not allowed; expected an odd integer >= 1")


def gaussian_weights(size: int, sigma: float | Float[Array, ""]) -> list[float] | Float[Array, " size"]:
    """Weights ``∝ exp(−d² / 2σ²)`` of ``size`` pixels in a row, d pixels from the middle one. Their sum is 1.

    Args:
        size: number of pixels, odd.
        sigma: standard deviation in pixels, > 0. A Python number gives Python numbers in double precision, which are
            rounded where they are used; a JAX array gives an array of its type.

    >>> [round(weight, 3) for weight in gaussian_weights(3, 0.8)]
    [0.239, 0.522, 0.239]
    """
    xp = jnp if isinstance(sigma, jax.Array) else np
    offsets = xp.arange(size) - size // 2
    weights = xp.exp(-(offsets**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    return weights if xp is jnp else weights.tolist()


BORDERS = ("valid", "reflect", "symmetric")


@at_least_float32
def separable_filter(
    images: Float[Array, "b h w c"],
    weights: Sequence[float] | Float[Array, " size"],
    border: str = "valid",
    *,
    divisor: float = 1.0,
) -> Float[Array, "b h2 w2 c"]:
    """Weighted sums of ``size × size`` pixels, ``Σ_ij weights[i] · weights[j] · x[y + i, x + j]``, axis by axis.

    They are sums of shifted images, which is far quicker on a CPU than a depthwise convolution.

    Args:
        images: values of any range.
        weights: along each axis; an odd number of them.
        border: ``"valid"`` uses windows inside the image only: both sides must be at least ``size`` pixels and shrink
            by ``size − 1``. ``"reflect"`` keeps the size and mirrors the image about its outermost pixels; both sides
            must be longer than ``size // 2``. ``"symmetric"`` keeps the size and mirrors the image about its edge.
        divisor: the sum along each axis is divided by it; 7 weights of 1 with a divisor of 7 give the mean.

    Raises:
        ValueError: an unknown border, an even number of weights, or a side that is too short.

    >>> separable_filter(jnp.arange(9.0).reshape(1, 3, 3, 1), 3 * [1.0], divisor=3.0).tolist()
    [[[[4.0]]]]
    """
    size = len(weights)
    check_choice("border", border, BORDERS)
    check_window("size", size)
    check_images("images", images, minimum={"valid": size, "reflect": size // 2 + 1, "symmetric": 1}[border])
    # What is shifted is computed once: XLA would compute it again for every shift (on a CPU, SSIM's gradient took 40
    # times as long). After padding one barrier per axis is enough, and quicker than one more.
    once = jax.lax.optimization_barrier
    for axis in (1, 2):
        if border != "valid":
            images = once(_padded(images, size, (axis,), border))
        b, h, w, c = images.shape
        rows = images.reshape(b, h, w * c)
        h, w = (h - size + 1, w) if axis == 1 else (h, w - size + 1)
        step, length = (1, h) if axis == 1 else (c, w * c)
        shifted = [jax.lax.slice_in_dim(rows, i * step, i * step + length, axis=axis) for i in range(size)]
        total: Any = sum(weights[i] * part for i, part in enumerate(shifted)) / divisor
        images = (once(total) if border == "valid" else total).reshape(b, h, w, c)
    return images


@partial(jax.jit, static_argnames="size")
@at_least_float32
def gaussian_blur(
    images: Float[Array, "b h w c"], size: int, sigma: float | Float[Array, ""]
) -> Float[Array, "b h w c"]:
    """Average ``size × size`` pixels around each, weighted ``∝ exp(−(di² + dj²) / 2σ²)``; borders are reflected.

    Args:
        images: both sides longer than ``size // 2``.
        size: side of the window in pixels, odd.
        sigma: standard deviation in pixels, > 0.

    Raises:
        ValueError: an even window, or images that are smaller than the window allows.

    >>> image = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
    >>> [f"{value:.3f}" for value in gaussian_blur(image, 3, 0.8)[0, 1, :, 0]]
    ['0.250', '0.272', '0.250']
    """
    check_window("size", size)
    check_images("images", images, minimum=size // 2 + 1)
    weights = gaussian_weights(size, jnp.asarray(sigma, images.dtype))
    return separable_filter(images, weights, "reflect")


@partial(jax.jit, static_argnames="size")
@at_least_float32
def median_blur(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Return the exact median of the ``size × size`` values around each, per channel; borders are reflected.

    The bits of non-negative floats, read as integers, have the order of the floats. So the median is found bit by bit:
    each step counts the values below a bound, which needs no sorting and little memory.

    The gradient goes to the pixels that equal the median, in equal shares.

    Args:
        images: non-negative, below 2; both sides longer than ``size // 2``.
        size: side of the window in pixels, odd.

    Raises:
        ValueError: an even window, or images that are smaller than the window allows.

    >>> image = jnp.array([[0.1, 0.9, 0.2], [0.3, 0.8, 0.4], [0.5, 0.7, 0.6]])[None, ..., None]
    >>> round(float(median_blur(image, 3)[0, 1, 1, 0]), 6)
    0.5
    """
    check_window("size", size)
    check_images("images", images, minimum=size // 2 + 1)
    b, _, w, c = images.shape
    rows = _padded(images, size, (1, 2), "reflect").reshape(b, -1, (w + size - 1) * c)
    return _median(rows, size, c).reshape(images.shape)


def _padded(images: Array, size: int, axes: tuple[int, ...], mode: str) -> Array:
    widths = [(size // 2, size // 2) if axis in axes else (0, 0) for axis in range(4)]
    return jnp.pad(images, widths, mode=mode)


def _taps(rows: Array, size: int, c: int) -> list[Array]:
    """Return the ``size²`` shifted views of padded rows ``b h w·c``."""
    h, wide = rows.shape[1] - size + 1, rows.shape[2] - (size - 1) * c
    return [rows[:, i : i + h, j * c : j * c + wide] for i in range(size) for j in range(size)]


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _median(rows: Float[Array, "b h2 w2"], size: int, c: int) -> Float[Array, "b h3 w3"]:
    integer = {4: jnp.int32, 8: jnp.int64}[rows.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(jnp.abs(rows), integer)  # abs: the sign bit of −0
    highest = 8 * rows.dtype.itemsize - 3  # the first bit is the sign, the second is set from 2 on

    def settle(step: Int[Array, ""], state: tuple[Array, Array]) -> tuple[Array, Array]:
        median, bits = state  # not closed over: the loop would store every shifted copy
        bound = median | (jnp.ones((), integer) << (highest - step).astype(integer))
        below = sum((tap < bound).astype(jnp.int32) for tap in _taps(bits, size, c))
        return jnp.where(below <= size**2 // 2, bound, median), bits

    start = jnp.zeros_like(_taps(bits, size, c)[0])
    median, _ = jax.lax.fori_loop(0, highest + 1, settle, (start, bits))
    return jax.lax.bitcast_convert_type(median, rows.dtype)


@_median.defjvp
def _derivative(size, c, primals, tangents):
    (rows,), (change,) = primals, tangents
    median = _median(rows, size, c)
    return median, _mean_of_equal(jax.lax.stop_gradient(rows), jax.lax.stop_gradient(median), change, size, c)


# For the backward pass the taps equal to the median are found again: storing a number per tap needs much memory.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=(3, 4))
def _mean_of_equal(rows, median, change, size, c):
    """Return the change of each median: the mean change of the values equal to it."""
    holds = [tap == median for tap in _taps(rows, size, c)]
    total = sum(jnp.where(hold, tap, 0) for hold, tap in zip(holds, _taps(change, size, c), strict=True))
    return total / sum(hold.astype(rows.dtype) for hold in holds)
