"""Poolings of a whole map to one number per channel, by name.

A metric whose head averages whole maps has a static attribute ``global_pooling``, a key of `POOLINGS`; its class has
the published one, the mean. `jaxiqa.models.swap_pooling` sets another.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

Map = Float[Array, "b h w c"]
Vector = Float[Array, "b c"]


@at_least_float32
def mean_pool(x: Map) -> Vector:
    """Return the mean over pixels.

    >>> mean_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).item()
    1.5
    """
    return jnp.mean(x, (1, 2))


def median_pool(x: Map) -> Vector:
    """Return the median over pixels: of an even number, the mean of the middle two.

    Only these pixels have a gradient; of equal ones, the first in the order of the sort. Changing less than half of the
    pixels cannot move it beyond the others' range. It is 1-Lipschitz.

    >>> median_pool(jnp.array([0.0, 1.0, 2.0, 99.0]).reshape(1, 2, 2, 1)).item()
    1.5
    """
    n = x.shape[1] * x.shape[2]
    return _middle(x, (n - 1) // 2)


def trimmed_pool(x: Map) -> Vector:
    """Return the mean of the middle half of the pixels: without the ⌊n/4⌋ smallest and the ⌊n/4⌋ largest of n.

    Changing less than a quarter of the pixels cannot move it beyond the others' range. It is 1-Lipschitz.

    >>> trimmed_pool(jnp.array([-99.0, 1.0, 2.0, 99.0]).reshape(1, 2, 2, 1)).item()
    1.5
    """
    return _middle(x, x.shape[1] * x.shape[2] // 4)


@at_least_float32
def _middle(x: Map, cut: Any) -> Vector:
    """Return the mean over pixels without the ``cut`` smallest and the ``cut`` largest."""
    b, h, w, c = x.shape
    pixels = jnp.sort(x.reshape(b, h * w, c).swapaxes(1, 2), axis=-1)  # the sorted axis last: quicker on CPUs
    return jnp.mean(pixels[:, :, cut : h * w - cut], -1)


OFFSET = 0.1
"""δ of `power_pool`, in the units of the features."""


@at_least_float32
def power_pool(x: Map) -> Vector:
    """Return φ⁻¹(mean of φ(x)) with φ(x) = sign(x) (√(|x| + δ) − √δ), δ = 0.1: a power mean with the exponent ½.

    Large values count less than in the mean; a constant map gives its value. For |x| much larger than δ and one sign
    it is the power mean (mean of √|x|)², for much smaller ones the mean. δ bounds the slope of φ, which for δ = 0 is
    infinite at 0, where a ReLU puts many pixels. The result has no Lipschitz constant for all maps: a pixel at 0 counts
    √(1 + |result| / δ) times as much as in the mean.

    >>> power_pool(jnp.array([0.0, 0.0, 0.0, 8.0]).reshape(1, 2, 2, 1)).round(3).item()  # the mean is 2
    0.800000011920929
    """
    root = OFFSET**0.5
    # φ without a sign, whose derivative would be lost at 0.
    y = jnp.mean(x / (jnp.sqrt(jnp.abs(x) + OFFSET) + root), (1, 2))
    return y * (jnp.abs(y) + 2 * root)


POOLINGS: dict[str, Callable[[Array], Array]] = {
    "mean": mean_pool,
    "median": median_pool,
    "trimmed": trimmed_pool,
    "power": power_pool,
}
"""Name -> the function of a map ``b h w c``: mean, median, mean of the middle half, smooth power mean."""


def global_pool(name: str, x: Map) -> Vector:
    """Apply the pooling with this name.

    Args:
        name: a key of `POOLINGS`.
        x: a map, or a part of it.

    >>> global_pool("median", jnp.array([1.0, 2.0, 9.0]).reshape(1, 1, 3, 1)).item()
    2.0
    """
    return POOLINGS[name](x)
