"""The binomial blur: an average over neighbours that keeps the mean of a map and is 1-Lipschitz."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.precision import at_least_float32

TAPS = (3, 5)


@partial(jax.jit, static_argnames="taps")
@at_least_float32
def binomial_blur(x: Float[Array, "b h w c"], taps: int = 3) -> Float[Array, "b h w c"]:
    """Average every channel with the weights [1 2 1] / 4 along both axes; with five taps, twice: [1 4 6 4 1] / 16.

    Pixels beyond the edge are copies of those at the edge. So a constant map stays constant, and the matrix of each
    axis is symmetric with rows that sum to one: its largest singular value is exactly 1.

    Args:
        x: the map.
        taps: 3 or 5.

    Raises:
        ValueError: another number of taps.

    >>> binomial_blur(jnp.array([0.0, 0.0, 4.0, 0.0, 0.0]).reshape(1, 1, 5, 1)).ravel().tolist()
    [0.0, 1.0, 2.0, 1.0, 0.0]
    """
    check_choice("taps", taps, TAPS)
    for _ in range(taps // 2):
        x = _average(_average(x, 1), 2)
    return x


def _average(x: Array, axis: int) -> Array:
    """Apply [1 2 1] / 4 along an axis. XLA must not fuse it with what follows, such as a pooling: it would compute it
    once per use, which took four times as long."""
    n = x.shape[axis]
    part = partial(jax.lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, n - 1)], axis)
    after = jnp.concatenate([part(1, n), part(n - 1, n)], axis)
    return jax.lax.optimization_barrier(0.25 * before + 0.5 * x + 0.25 * after)
