"""The schedule of random-search attacks: the share of pixels that an iteration changes."""

import jax
import jax.numpy as jnp
import numpy as np

_LAST = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])  # last iterations of the phases, out of 10,000


def phase_starts(iterations: int) -> np.ndarray:
    """Return the first iteration of phases 1 to 9, rescaled from 10,000 to ``iterations``.

    >>> phase_starts(1000).tolist()
    [2, 6, 21, 51, 101, 201, 401, 601, 801]
    """
    return -(-(_LAST + 1) * iterations // 10_000)


def phase(iteration: jax.Array | int, iterations: int) -> jax.Array:
    """Return the phase (0 to 9) of an iteration; the share of pixels changed is ``start / 2**phase``.

    Args:
        iteration: number of the iteration, from 0; may be traced.
        iterations: total number of iterations.

    >>> [int(phase(i, 10_000)) for i in (0, 10, 11, 200, 201, 9999)]
    [0, 0, 1, 2, 3, 9]

    Reference: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random search",
    arXiv:1912.00049; also used by "Sparse-RS: a versatile framework for query-efficient sparse black-box adversarial
    attacks", arXiv:2006.12834.
    """
    return jnp.sum(iteration >= phase_starts(iterations))
