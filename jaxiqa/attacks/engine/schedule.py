"""The schedule by which random-search attacks shrink what they change."""

import jax
import jax.numpy as jnp
import numpy as np

_LAST = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])  # last iterations of the phases, out of 10,000


def phase_starts(iterations: int) -> np.ndarray:
    """First iteration of each phase after the first, rescaled from 10,000 to ``iterations``.

    >>> phase_starts(1000).tolist()
    [2, 6, 21, 51, 101, 201, 401, 601, 801]
    """
    return -(-(_LAST + 1) * iterations // 10_000)


def phase(iteration: jax.Array | int, iterations: int) -> jax.Array:
    """Which of the ten phases (0 to 9) an iteration belongs to; the share of pixels changed is ``start / 2**phase``.

    Args:
        iteration: number of the iteration from 0; may be traced.
        iterations: how many there will be.

    >>> [int(phase(i, 10_000)) for i in (0, 10, 11, 200, 201, 9999)]
    [0, 0, 1, 2, 3, 9]

    Reference: Andriushchenko et al., arXiv 1912.00049; Sparse-RS (arXiv 2006.12834) uses it too.
    """
    return jnp.sum(iteration >= phase_starts(iterations))
