"""The matrix of a linear function by differentiation, and constants for the tests of rules."""

import jax
import jax.numpy as jnp
import numpy as np

SIZE = (8, 8, 3)


RANDOM = np.random.default_rng(0)


def dense(function, size=SIZE):
    """Return the largest singular value of the Jacobian over points with peaks, ties and both signs."""

    def flat(x):
        y = function(x).ravel()
        return jnp.concatenate([y.real, y.imag]) if jnp.iscomplexobj(y) else y

    with jax.enable_x64(True):
        shape = (1, *size)
        x = [jax.random.normal(jax.random.key(i), shape, jnp.float64) for i in range(3)]
        x += [x[0].at[0, 0, 0, 0].set(9.0), x[0].at[0, 0, 0, 0].set(-9.0), jnp.zeros(shape), x[0] * 0.01 + 0.5]
        jacobians = np.asarray(jax.jit(jax.vmap(jax.jacrev(flat)))(jnp.stack(x)))
    jacobians = jacobians[np.isfinite(jacobians).all((1, 2, 3, 4, 5))]  # a norm has no slope at 0
    return max(np.linalg.norm(matrix.reshape(len(matrix), -1), 2) for matrix in jacobians)


KNOWN = RANDOM.normal(size=SIZE).astype(np.float32)


COMPLEX = RANDOM.normal(size=(3, 3, 1, 2)) + 1j * RANDOM.normal(size=(3, 3, 1, 2))


ROW = RANDOM.normal(size=(7, 5)).astype(np.float32)
