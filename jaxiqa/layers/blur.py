"""Binomial blurs, for anti-aliased down-sampling: 1-Lipschitz, and constant maps do not change."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

Maps = Float[Array, "b h w c"]


# Compiled under these names, by which `jaxiqa.lipschitz` recognises them.
@jax.jit
@at_least_float32
def binomial_blur_3(x: Maps) -> Maps:
    """Blur by (1, 2, 1) / 4 along both axes; the map is continued by reflection, border pixels included.

    So each axis is multiplied by a symmetric matrix whose rows are weights that add up to 1: its norm is 1.

    >>> binomial_blur_3(jnp.array([0.0, 0.0, 4.0, 0.0]).reshape(1, 1, 4, 1)).ravel().tolist()
    [0.0, 1.0, 2.0, 1.0]
    """
    return _blurred(x, (1, 2, 1))


@jax.jit
@at_least_float32
def binomial_blur_5(x: Maps) -> Maps:
    """Blur by (1, 4, 6, 4, 1) / 16 along both axes; otherwise as `binomial_blur_3`.

    >>> binomial_blur_5(jnp.array([0.0, 0.0, 16.0, 0.0]).reshape(1, 1, 4, 1)).ravel().tolist()
    [1.0, 4.0, 6.0, 5.0]
    """
    return _blurred(x, (1, 4, 6, 4, 1))


BLURS: dict[int, Callable[[Maps], Maps]] = {3: binomial_blur_3, 5: binomial_blur_5}
"""Number of taps -> blur."""


def antialias(x: Maps, taps: int | None) -> Maps:
    """Blur with this number of taps; None: return the map unchanged.

    >>> antialias(jnp.ones((1, 2, 2, 1)), None).shape
    (1, 2, 2, 1)
    """
    return x if taps is None else BLURS[taps](x)


def _blurred(x: Maps, weights: Sequence[int]) -> Maps:
    reach = len(weights) // 2
    for axis in (1, 2):
        side, pads = x.shape[axis], [(0, 0)] * x.ndim
        pads[axis] = (reach, reach)
        wide = jnp.pad(x, pads, mode="symmetric")
        parts = [w * jax.lax.slice_in_dim(wide, i, i + side, axis=axis) for i, w in enumerate(weights)]
        # Without the barrier, XLA computes the blur again for every pixel that reads it, such as the taps of a kernel.
        x = jax.lax.optimization_barrier(sum(parts[1:], parts[0]) / sum(weights))
    return x
