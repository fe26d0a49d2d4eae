"""Wavelet shrinkage: small local details are removed, at every place and scale alike; large ones stay."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_count, check_number
from jaxiqa.core.precision import at_least_float32

SIGNS = ((1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1))
"""Bands: means, and details along rows, columns and both; by pixel and neighbour: own, left, above, above left."""


@partial(jax.jit, static_argnames="levels")
@at_least_float32
def wavelet_shrink(
    x: Float[Array, "b h w c"], threshold: float | Float[Array, ""] | Float[Array, " c"], *, levels: int = 3
) -> Float[Array, "b h w c"]:
    """Remove weak details: translation-invariant shrinkage of Haar wavelets, 1-Lipschitz, of maps of any size.

    F is the Haar transform without decimation: at level j, sums and differences of neighbours of distance 2^(j−1) along
    rows, columns and both, circular. With the factor 1/4 it is an isometry, ``FᵀF = I``. Each coefficient of a detail
    moves towards 0 by at most ``threshold / 2^j``, and the means of the last level stay:

        y = x − Fᵀ · clip(F x, −threshold / 2^j, threshold / 2^j)

    This is the mean, over all shifts, of the orthonormal transform with its details shrunk by ``threshold``.

    Args:
        x: maps, such as images.
        threshold: at least 0, in units of ``x``, one for all channels or one each: white noise of deviation σ has
            orthonormal coefficients of deviation σ. Details up to it disappear.
        levels: of the transform, at least 1.

    Raises:
        ValueError: ``levels`` is below 1 or no integer.

    >>> x = jnp.array([0.0, 0.0, 0.1, 0.0, 9.0, 9.0, 9.0, 9.0]).reshape(1, 1, 8, 1)
    >>> found = wavelet_shrink(x, 0.4, levels=1).ravel()
    >>> [round(float(value), 2) for value in found]  # the dot is spread, the edge stays
    [0.1, 0.03, 0.05, 0.12, 8.9, 9.0, 9.0, 8.9]

    Reference: Coifman, Donoho, "Translation-Invariant De-Noising", 1995; Donoho, "De-noising by Soft-Thresholding",
    IEEE Transactions on Information Theory 41(3), 1995.
    """
    check_count("levels", levels, 1)
    details, mean = [], x
    for level in range(levels):
        near = _neighbours(mean, 2**level)
        mean, *bands = (_signed(signs, near) for signs in SIGNS)
        limit = threshold / 2 ** (level + 1)
        details.append([jnp.minimum(jnp.maximum(band, -limit), limit) for band in bands])
    removed = jnp.zeros_like(x)
    for level, bands in reversed(list(enumerate(details))):  # the transpose: SIGNS is symmetric
        moved = _neighbours(jnp.concatenate([removed, *bands], -1), 2**level, after=True)
        parts = [_signed(signs, jnp.split(part, 4, -1)) for signs, part in zip(SIGNS, moved, strict=True)]
        removed = parts[0] + parts[1] + parts[2] + parts[3]
    return x - removed


def _signed(signs: tuple[int, ...], parts: list[Array]) -> Array:
    a, b, c, d = (sign * part for sign, part in zip(signs, parts, strict=True))
    return (a + b + c + d) / 4


def _neighbours(x: Array, distance: int, *, after: bool = False) -> list[Array]:
    """Return maps, and their neighbours left, above and above left by ``distance``; ``after``: right and below."""
    h, w = x.shape[1:3]
    down, right = distance % h, distance % w
    if after:
        x = jnp.concatenate([x, x[:, :down]], 1)
        x = jnp.concatenate([x, x[:, :, :right]], 2)
    else:
        x = jnp.concatenate([x[:, h - down :], x], 1)
        x = jnp.concatenate([x[:, :, w - right :], x], 2)
    x = jax.lax.optimization_barrier(x)  # XLA would make it again for each use: on a CPU gradients take twice the time
    rows, columns = ((0, down), (0, right)) if after else ((down, 0), (right, 0))
    return [x[:, i : i + h, j : j + w] for i in rows for j in columns]


class WaveletShrinkage(nnx.Module):
    """`wavelet_shrink` with a fixed threshold, as a stage of a network; before the first stage it filters the image.

    A change that nobody sees is made of small details. Where the image is smooth they are removed, and the network
    does not see them. The distance of two images never grows.

    Args:
        threshold: > 0, in units of the features: one number, or one per channel. A metric shows its first stage
            normalised pixels: `jaxiqa.models.filter_images` takes a threshold in the unit of pixels.
        levels: of the transform, at least 1.

    >>> block = WaveletShrinkage(threshold=0.1)
    >>> block(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, *, threshold: float | Sequence[float], levels: int = 3):
        several = isinstance(threshold, Sequence) and not isinstance(threshold, str)
        for number in threshold if several else (threshold,):
            check_number("threshold", number, 0.0, open_low=True)
        check_count("levels", levels, 1)
        self.threshold = tuple(threshold) if several else threshold
        self.levels = levels

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        threshold = jnp.asarray(self.threshold, jnp.promote_types(x.dtype, jnp.float32))
        return wavelet_shrink(x, threshold, levels=self.levels)
