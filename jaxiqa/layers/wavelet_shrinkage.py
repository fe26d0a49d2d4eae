"""Wavelet shrinkage: small local details are removed, at every place and scale alike; large ones stay."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_count, check_option
from jaxiqa.core.precision import at_least_float32

Rows = Float[Array, "b h wc"]

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
    b, h, w, c = x.shape
    row = threshold if jnp.ndim(threshold) == 0 else jnp.broadcast_to(threshold, (w, c)).reshape(w * c)
    return _shrink(levels, c, x.reshape(b, h, w * c), jnp.asarray(row, x.dtype)).reshape(x.shape)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _shrink(levels: int, c: int, x: Rows, threshold: Array) -> Rows:
    """Compute `wavelet_shrink` of maps whose columns and channels are one axis, so that loops over it are long."""
    details, limits = _analysis(levels, c, x), _limits(levels, threshold)
    return x - _synthesis(c, jax.tree.map(lambda z, t: jnp.minimum(jnp.maximum(z, -t), t), details, limits))


@partial(_shrink.defjvp, symbolic_zeros=True)
def _shrink_jvp(levels: int, c: int, primals: tuple, tangents: tuple) -> tuple[Rows, Rows]:
    """Return the value and ``dx − Fᵀ M F dx``, where M keeps the coefficients below their limits.

    This map of dx is symmetric, and `custom_linear_solve` is JAX's way to say so of a map that `jax.vmap` accepts: the
    gradient is the same program. The transpose that JAX derives of the shifts takes four times as long on a CPU.
    """
    (x, threshold), (dx, dt) = primals, tangents
    details, limits = _analysis(levels, c, x), _limits(levels, threshold)
    weak, moved = jax.tree.map(lambda z, t: jnp.abs(z) < t, details, limits), jnp.zeros_like(x)

    def derivative(_: Any, v: Rows) -> Rows:
        return v - _synthesis(c, jax.tree.map(lambda m, z: jnp.where(m, z, 0), weak, _analysis(levels, c, v)))

    if not isinstance(dx, SymbolicZero):
        moved = jax.lax.custom_linear_solve(lambda v: v, dx, derivative, derivative, symmetric=True)
    if not isinstance(dt, SymbolicZero):
        steps = jax.tree.map(lambda m, z, s: jnp.where(m, 0, jnp.sign(z) * s), weak, details, _limits(levels, dt))
        moved -= _synthesis(c, steps)
    return _shrink(levels, c, x, threshold), moved


def _limits(levels: int, threshold: Array) -> list[list[Array]]:
    return [3 * [threshold / 2**level] for level in range(1, levels + 1)]


def _analysis(levels: int, c: int, x: Rows) -> list[list[Rows]]:
    """Return the details of F x, level by level."""
    details, mean = [], x
    for level in range(levels):
        near = _neighbours(mean, 2**level, c)
        mean, *bands = (_signed(signs, near) for signs in SIGNS)
        details.append(bands)
    return details


def _synthesis(c: int, details: list[list[Rows]]) -> Rows:
    """Return Fᵀ of details, with means of 0."""
    found = jnp.zeros_like(details[0][0])
    for level, bands in reversed(list(enumerate(details))):  # SIGNS is symmetric
        near = [_neighbours(band, 2**level, c, after=True) for band in (found, *bands)]
        parts = [_signed(signs, some) for signs, some in zip(SIGNS, near, strict=True)]
        found = parts[0] + parts[1] + parts[2] + parts[3]
    return found


def _signed(signs: tuple[int, ...], parts: list[Rows]) -> Rows:
    a, b, c, d = (sign * part for sign, part in zip(signs, parts, strict=True))
    return (a + b + c + d) / 4


def _neighbours(x: Rows, distance: int, c: int, *, after: bool = False) -> list[Rows]:
    """Return maps, and their neighbours left, above and above left by ``distance``; ``after``: right and below."""
    h, n = x.shape[1:]
    down, right = distance % h, distance * c % n
    if after:
        x = jnp.concatenate([x, x[:, :down]], 1)
        x = jnp.concatenate([x, x[:, :, :right]], 2)
    else:
        x = jnp.concatenate([x[:, h - down :], x], 1)
        x = jnp.concatenate([x[:, :, n - right :], x], 2)
    x = jax.lax.optimization_barrier(x)  # XLA would make it again for each use
    rows, columns = ((0, down), (0, right)) if after else ((down, 0), (right, 0))
    return [x[:, i : i + h, j : j + n] for i in rows for j in columns]


class WaveletShrinkage(nnx.Module):
    """`wavelet_shrink` with a fixed threshold, as a stage of a network; before the first stage it filters the image.

    A change that nobody sees is made of small details. Where the image is smooth they are removed, and the network
    does not see them. The distance of two images never grows.

    Args:
        threshold: > 0, in units of the features: one number, or one per channel. A metric shows its first stage
            normalised pixels: `jaxiqa.models.filter_images` takes a threshold in the unit of pixels.
        levels: of the transform, at least 1.

    Raises:
        ValueError: no threshold, one that is not a number > 0, or levels below 1.

    >>> block = WaveletShrinkage(threshold=0.1)
    >>> block(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, *, threshold: float | Sequence[float], levels: int = 3):
        several = isinstance(threshold, Sequence) and not isinstance(threshold, str)
        self.threshold = tuple(threshold) if several else threshold  # type: ignore[arg-type]
        if self.threshold == ():
            raise ValueError("threshold is empty; expected one number, or one per channel")
        for number in self.threshold if isinstance(self.threshold, tuple) else (self.threshold,):
            check_option("threshold", number, open_low=True)
        check_count("levels", levels, 1)
        self.levels = levels

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        threshold = jnp.asarray(self.threshold, jnp.promote_types(x.dtype, jnp.float32))
        return wavelet_shrink(x, threshold, levels=self.levels)
