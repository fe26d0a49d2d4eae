"""Bilinear resizing as in PyTorch, with or without antialiasing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxiqa.core.bilinear import bilinear_weights
from jaxiqa.core.checks import check_number
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32

BLOCK = (32, 16)
"""Output columns per matrix product, or more as long as they depend on at most this many input columns."""
FEW = 4
"""Largest number of channels for which columns are computed by matrix products."""


@partial(jax.jit, static_argnames=("size", "antialias"))
@at_least_float32
def resize_bilinear(
    images: Float[Array, "b h w c"], size: tuple[int, int], *, antialias: bool = True
) -> Float[Array, "b h2 w2 c"]:
    """Resize images to ``size``: along each axis, pixel i of the result is ``Σ_j m_ij x_j``, see `bilinear_weights`.

    Only pixels with a weight are read: on a CPU 3 to 10 times faster than the product with the whole matrix.
    Columns cost more than rows, so they are resized when there are fewest rows: before enlarging, after shrinking.

    Args:
        images: of any range.
        size: (height, width) of the result, at least 1.
        antialias: smooth before shrinking; False reads only two pixels per axis, whatever the factor.

    Raises:
        ValueError: bad images, or a size below 1.

    >>> row = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1)
    >>> resize_bilinear(row, (1, 2), antialias=False).ravel().tolist()
    [0.0, 1.0]
    >>> [f"{value:.3f}" for value in resize_bilinear(row, (1, 2)).ravel()]
    ['0.143', '0.857']
    """
    check_images("images", images)
    for side in size:
        check_number("size", side, 1)
    resized = images
    axes = (1, 2) if size[0] < images.shape[1] else (2, 1)
    for axis in axes:
        # If fused with an operation that reads a pixel several times, each pixel would be computed as often.
        resized = jax.lax.optimization_barrier(_resample(resized, axis, size[axis - 1], antialias))
    return resized


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _resample(x: Array, axis: int, size: int, antialias: bool) -> Array:
    return _product(bilinear_weights(x.shape[axis], size, antialias), x, axis)


@_resample.defjvp
def _derivative(axis, size, antialias, primals, tangents):
    (x,), (change,) = primals, tangents
    options = {"axis": axis, "sides": (x.shape[axis], size), "antialias": antialias, "transposed": False}
    return _resample(x, axis, size, antialias), resample_p.bind(change, **options)


resample_p = Primitive("resample")
"""The linear map of `_resample`, and its transpose by an equally sparse matrix. JAX's transpose of gathers, scatters,
is ten times slower on a CPU."""


def _compute(x: Array, *, axis: int, sides: tuple[int, int], antialias: bool, transposed: bool) -> Array:
    weights = bilinear_weights(*sides, antialias)
    return _product(weights.T if transposed else weights, x, axis)


def _shape(x, *, axis, sides, antialias, transposed):
    return x.update(shape=(*x.shape[:axis], sides[not transposed], *x.shape[axis + 1 :]))


def _transpose(cotangent, x, *, transposed, **options):
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval)]
    return [resample_p.bind(cotangent, transposed=not transposed, **options)]


def _batch(arrays, axes, **options):
    x = jnp.moveaxis(arrays[0], axes[0], 0)
    made = resample_p.bind(x.reshape(-1, *x.shape[2:]), **options)
    return made.reshape(*x.shape[:2], *made.shape[1:]), 0


resample_p.def_impl(partial(jax.jit, static_argnames=("axis", "sides", "antialias", "transposed"))(_compute))
resample_p.def_abstract_eval(_shape)
mlir.register_lowering(resample_p, mlir.lower_fun(_compute, multiple_results=False))
ad.deflinear2(resample_p, _transpose)
batching.primitive_batchers[resample_p] = _batch


def _product(weights: np.ndarray, x: Array, axis: int) -> Array:
    b, h, w, c = x.shape
    if axis == 1:  # a CPU reads whole rows of numbers, w · c, fastest
        return _shifted_sum(weights, x.reshape(b, h, w * c), 1).reshape(b, -1, w, c)
    return _banded_product(weights, x) if c <= FEW else _shifted_sum(weights, x, 2)


def _spans(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the weights of each row begin and end; empty rows begin and end at 0."""
    used = weights != 0
    last = np.where(used.any(1), weights.shape[1] - used[:, ::-1].argmax(1), 0)
    return used.argmax(1), last


def _shifted_sum(weights: np.ndarray, x: Array, axis: int) -> Array:
    """Multiply x by ``weights`` along ``axis``, as a sum over the short span in which a row is not zero."""
    first, last = _spans(weights)
    span = int((last - first).max())
    first = np.minimum(first, weights.shape[1] - span)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    total = jnp.zeros((), x.dtype)
    for index in (first + tap for tap in range(span)):
        weight = jnp.asarray(weights[np.arange(len(weights)), index].reshape(shape), x.dtype)
        total = total + weight * jnp.take(x, index, axis=axis, mode="clip")
    return total


def _banded_product(weights: np.ndarray, x: Array) -> Array:
    """Multiply x by ``weights`` along the columns, as matrix products of the blocks that contain the matrix's band.

    Every channel has the same weights, so a block is ``weights ⊗ I``: with few channels this is still faster than
    reading pixels one by one.
    """
    b, h, _, c = x.shape
    first, last = _spans(weights)
    size, side = weights.shape
    block = max(BLOCK[0], BLOCK[1] * size // side)
    parts = []
    for start in range(0, size, block):
        rows = slice(start, start + block)
        low = int(first[rows].min(where=last[rows] > 0, initial=side - 1))  # empty rows do not count
        high = max(int(last[rows].max()), low + 1)
        matrix = np.kron(weights[rows, low:high].T, np.eye(c))
        pixels = x[:, :, low:high].reshape(b * h, -1)
        parts.append(jnp.matmul(pixels, jnp.asarray(matrix, x.dtype), precision="highest"))
    return jnp.concatenate(parts, axis=1).reshape(b, h, -1, c)
