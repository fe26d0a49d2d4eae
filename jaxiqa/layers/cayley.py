"""The Cayley transform of skew-Hermitian matrices, and its form for non-square matrices."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import Matrices, adjoint, polish, product


@at_least_float32
def cayley(a: Matrices) -> Matrices:
    """Return (I + A)⁻¹(I − A), which never has the eigenvalue −1. Its derivative needs no second solve.

    dQ = −½(I + Q) dA (I + Q), because (I + A)⁻¹ = (I + Q)/2.

    >>> jnp.round(cayley(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _cayley(a)


@jax.custom_jvp
def _cayley(a: Matrices) -> Matrices:
    identity = jnp.eye(a.shape[-1], dtype=a.dtype)
    return polish(jnp.linalg.solve(identity + a, identity - a))


@_cayley.defjvp
def _derivative(primals, tangents):
    q = _cayley(*primals)
    return q, _along(q, *tangents)


# For the backward pass this is computed again from Q, not stored.
@partial(jax.checkpoint, prevent_cse=False)
def _along(q, change):
    outer = q + jnp.eye(q.shape[-1], dtype=q.dtype)
    return -0.5 * product(outer, product(change, outer))


@at_least_float32
def semi_orthogonal(weight: Matrices) -> Matrices:
    """Return matrices with orthonormal columns (n ≥ m) from arbitrary ones, or with orthonormal rows (n < m).

    In float32, weights with a spectral norm up to about 100 give orthonormal columns within 1e-5; from about 1000 on,
    the inverse is too inexact.

    With W = [U; V] and A = U − Uᴴ + VᴴV: Q = [(I + A)⁻¹(I − A); −2V(I + A)⁻¹], so QᴴQ = I.

    >>> q = semi_orthogonal(jnp.arange(6.0).reshape(3, 2))
    >>> bool(jnp.allclose(q.T @ q, jnp.eye(2), atol=1e-6))
    True

    Reference: Trockman and Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform",
    arXiv:2104.07167.
    """
    n, m = weight.shape[-2:]
    if n < m:
        return jnp.swapaxes(semi_orthogonal(jnp.swapaxes(weight, -1, -2)), -1, -2)
    top, rest = weight[..., :m, :], weight[..., m:, :]
    a = top - adjoint(top) + product(adjoint(rest), rest)
    identity = jnp.eye(m, dtype=weight.dtype)
    inverse = jnp.linalg.inv(identity + a)
    q = jnp.concatenate([product(inverse, identity - a), -2 * product(rest, inverse)], axis=-2)
    return polish(polish(q))
