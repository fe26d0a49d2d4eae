"""Depthwise convolution: one filter per channel."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.nn.kernels.bilinear import bilinear

Padding = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.jit, static_argnames=("stride", "padding"))  # one operation in traced programs, see jaxiqa.lipschitz
def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c"], *, stride: tuple[int, int], padding: Padding
) -> Float[Array, "b h2 w2 c"]:
    """Correlate each channel with its own kernel.

    On a CPU this is a sum of shifted products, 4× to 10× faster than XLA's grouped convolution, forward and backward.
    On accelerators it is that convolution.

    Args:
        x: feature maps.
        kernel: one filter per channel.
        stride: (vertical, horizontal).
        padding: zeros ((above, below), (left, right)).

    >>> depthwise_conv(jnp.ones((1, 5, 4, 2)), jnp.ones((3, 3, 2)), stride=(2, 2), padding=((1, 1), (1, 1))).shape
    (1, 3, 2, 2)
    """
    if kernel.shape[-1] != x.shape[-1]:
        raise ValueError(f"kernel has {kernel.shape[-1]} channels, x has {x.shape[-1]}")
    method = shifted_products if jax.default_backend() == "cpu" else grouped_convolution
    return method(x, kernel, stride, padding)


def shifted_products(x: Array, kernel: Array, stride: tuple[int, int], padding: Padding) -> Array:
    """Compute Σ over taps of (shifted, strided x) · kernel[tap], summed in at least float32.

    It and its two transposes are primitives (`jaxiqa.nn.kernels.bilinear`). Derivatives by the kernel would else be one
    sum over all pixels per tap, for which XLA writes every shifted product to memory (4 to 8 times slower).
    """
    dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    x, kernel = x.astype(wide), kernel.astype(wide)
    sizes = {"size": x.shape[1:3], "taps": kernel.shape[:2]}
    return forward_p.bind(x, kernel, stride=stride, padding=padding, **sizes).astype(dtype)


def _sides(stride: Any, padding: Any, size: Any, taps: Any) -> tuple[Any, Any]:
    """Return the height and width of the convolution's output, integers or dimensions of any size (`jax.export`)."""
    height, width = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, padding, taps, stride, strict=True))
    return height, width


def _forward(x: Array, kernel: Array, *, stride: Any, padding: Any, size: Any, taps: Any) -> Array:
    """Return the convolution, ``b h2 w2 c``."""
    height, width = _sides(stride, padding, size, taps)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    total = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(*taps):
        rows = slice(i, i + (height - 1) * stride[0] + 1, stride[0])
        columns = slice(j, j + (width - 1) * stride[1] + 1, stride[1])
        total = total + x[:, rows, columns] * kernel[i, j]
    return total


def _by_x(change: Array, kernel: Array, *, stride: Any, padding: Any, size: Any, taps: Any) -> Array:
    """Return its transpose in x, ``b h w c``: a convolution with the kernel turned by 180°.

    The output's change gets ``stride - 1`` zeros between its pixels, and margins (or cuts, if negative) by which the
    result has the size of x.
    """
    margins = [(0, 0, 0)]
    for (before, _), side, k, s, n in zip(padding, size, taps, stride, change.shape[1:3], strict=True):
        margins.append((k - 1 - before, side + before - (n - 1) * s - 1, s - 1))
    spread = jax.lax.pad(change, jnp.zeros((), change.dtype), [*margins, (0, 0, 0)])
    none = ((0, 0), (0, 0))
    return _forward(spread, kernel[::-1, ::-1], stride=(1, 1), padding=none, size=spread.shape[1:3], taps=taps)


def _by_kernel(x: Array, change: Array, *, stride: Any, padding: Any, size: Any, taps: Any) -> Array:
    """Return its transpose in the kernel, ``kh kw c``.

    One row of the output after the other is added to a sum per tap and column, which stays in the cache.
    """
    height, width = _sides(stride, padding, size, taps)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(row: Array, sums: list[Array]) -> list[Array]:
        changes = jax.lax.dynamic_index_in_dim(change, row, 1, keepdims=False)
        rows = jax.lax.dynamic_slice_in_dim(x, row * stride[0], taps[0], 1)
        shifts = (rows[:, i, j : j + (width - 1) * stride[1] + 1 : stride[1]] for i, j in np.ndindex(*taps))
        return [total + shifted * changes for total, shifted in zip(sums, shifts, strict=True)]

    zeros = jnp.zeros((x.shape[0], width, x.shape[3]), x.dtype)
    sums = jax.lax.fori_loop(0, height, add, [zeros] * (taps[0] * taps[1]))
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(*taps, -1)


def _more_channels(bind: Any, operands: list[Array]) -> tuple[Array, int]:
    """Compute several convolutions as one with more channels."""
    joined = (jnp.moveaxis(x, 0, -2) for x in operands)
    found = bind(*(x.reshape(*x.shape[:-2], -1) for x in joined))
    return found.reshape(*found.shape[:-1], len(operands[0]), -1), found.ndim - 1


forward_p, by_x_p, by_kernel_p = bilinear(
    "jaxiqa_depthwise",
    (_forward, _by_x, _by_kernel),
    options=("stride", "padding", "size", "taps"),
    several=_more_channels,
)


def grouped_convolution(x: Array, kernel: Array, stride: tuple[int, int], padding: Padding) -> Array:
    """Compute the same by `jax.lax.conv_general_dilated` with one group per channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        stride,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
