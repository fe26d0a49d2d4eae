"""Support vector regression with a Gaussian kernel."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def rbf_regression(
    x: Float[Array, "b d"],
    vectors: Float[Array, "n d"],
    coefficients: Float[Array, " n"],
    gamma: Float[Array, ""],
    rho: Float[Array, ""],
) -> Float[Array, " b"]:
    """Return ``Σ_i coefficients_i · exp(−gamma · ‖x − vectors_i‖²) − rho``.

    With large coefficients of both signs, most digits cancel: the result has to be computed in float64
    (`jaxiqa.core.float64.in_float64`) if it is to be right to a thousandth.

    >>> x, one = jnp.array([[1.0, 0.0]]), jnp.array(1.0)
    >>> rbf_regression(x, jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([3.0, jnp.e]), one, one).round(4).tolist()
    [3.0]

    Reference: Chang et al., "LIBSVM: A Library for Support Vector Machines", 2011.
    """
    squares = jnp.sum((x[:, None] - vectors) ** 2, axis=-1)
    kernel = jnp.exp(-gamma * squares)
    return jnp.matmul(kernel, coefficients, precision=jax.lax.Precision.HIGHEST) - rho


class SVR(nnx.Module):
    """`rbf_regression` with its numbers as parameters.

    Args:
        features: numbers per input.
        vectors: number of support vectors.
        rngs: random numbers for new parameters: vectors uniform in [−1, 1], coefficients normal.

    >>> SVR(36, 5, rngs=nnx.Rngs(0))(jnp.zeros((2, 36))).shape
    (2,)
    """

    def __init__(self, features: int, vectors: int, *, rngs: nnx.Rngs):
        of_vectors, of_coefficients = rngs.params(), rngs.params()
        self.vectors = nnx.Param(jax.random.uniform(of_vectors, (vectors, features), minval=-1.0))
        self.coefficients = nnx.Param(jax.random.normal(of_coefficients, (vectors,)))
        self.gamma = nnx.Param(jnp.array([0.05]))
        self.rho = nnx.Param(jnp.array([0.0]))

    @property
    def numbers(self) -> tuple[Array, Array, Array, Array]:
        """Return the arguments of `rbf_regression` after the first."""
        return self.vectors[...], self.coefficients[...], self.gamma[...][0], self.rho[...][0]

    def __call__(self, x: Float[Array, "b features"]) -> Float[Array, " b"]:
        return rbf_regression(x, *self.numbers)
