"""Bilinear resizing, smoothed or not where it shrinks, as PyTorch does it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.checks import check_images, check_number


@partial(jax.jit, static_argnames=("size", "antialias"))
def resize_bilinear(
    images: Float[Array, "b h w c"], size: tuple[int, int], *, antialias: bool = True
) -> Float[Array, "b h2 w2 c"]:
    """Images resized to ``size``: along each axis, pixel i of the result is ``Σ_j m_ij x_j``, see `bilinear_weights`.

    Only the pixels with a weight are looked at: on a CPU 3 to 10 times faster than the product with the whole matrix.

    Args:
        images: of any range.
        size: (height, width) of the result, at least 1.
        antialias: smooth before shrinking; False looks at two pixels per axis only, whatever the factor.

    >>> row = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1)
    >>> resize_bilinear(row, (1, 2), antialias=False).ravel().tolist()
    [0.0, 1.0]
    >>> [f"{value:.3f}" for value in resize_bilinear(row, (1, 2)).ravel()]
    ['0.143', '0.857']
    """
    check_images("images", images)
    for side in size:
        check_number("size", side, 1)
    b, h, w, c = images.shape
    # Whole rows of numbers, w · c, are what a CPU reads fastest.
    rows = _resample(images.reshape(b, h, w * c), 1, size[0], antialias)
    resized = _resample(rows.reshape(b, size[0], w, c), 2, size[1], antialias)
    # Fused with whatever looks at a pixel several times, such as another resize, each would be computed as often.
    return jax.lax.optimization_barrier(resized)


@cache
def bilinear_weights(side: int, size: int, antialias: bool) -> Float[np.ndarray, "size side"]:
    """The weights along one axis: ``m_ij ∝ max(0, 1 − |p_i − j| / s)`` with ``p_i = (i + ½) · side / size − ½``.

    s is ``side / size`` where that shrinks the image and ``antialias`` is set, else 1. Every row sums to one.

    >>> bilinear_weights(2, 4, True).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    support = max(side / size, 1.0) if antialias else 1.0
    position = (np.arange(size) + 0.5) * side / size - 0.5
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(side)) / support)
    return weights / weights.sum(1, keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resample(x: Array, axis: int, size: int, antialias: bool) -> Array:
    return _product(bilinear_weights(x.shape[axis], size, antialias), x, axis)


def _forward(x, axis, size, antialias):
    return _resample(x, axis, size, antialias), x.shape[axis]


def _backward(axis, size, antialias, side, cotangent):
    """The transposed matrix is as sparse; what JAX makes of the gathers, scatters, takes a CPU ten times as long."""
    return (_product(bilinear_weights(side, size, antialias).T, cotangent, axis),)


_resample.defvjp(_forward, _backward)


def _product(weights: np.ndarray, x: Array, axis: int) -> Array:
    """``weights`` times x along ``axis``, as a sum over the short span in which a row is not zero."""
    used = weights != 0
    first = used.argmax(1)
    last = weights.shape[1] - used[:, ::-1].argmax(1)
    span = int((last - first)[used.any(1)].max())
    first = np.minimum(first, weights.shape[1] - span)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    total = jnp.zeros((), x.dtype)
    for index in (first + tap for tap in range(span)):
        weight = jnp.asarray(weights[np.arange(len(weights)), index].reshape(shape), x.dtype)
        total = total + weight * jnp.take(x, index, axis=axis, mode="clip")
    return total
