"""Reflections of low rank: unitary matrices that cost c²r instead of c³ and are never built."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import Matrices, adjoint, product


@at_least_float32
def reflect(
    x: Complex[Array, "*batch b c"] | Float[Array, "*batch b c"], basis: Matrices
) -> Complex[Array, "*batch b c"] | Float[Array, "*batch b c"]:
    """Return (I − 2QQᴴ)x for each row x, with Q a basis of orthonormal columns ``c r``: 4bcr multiply-adds.

    >>> reflect(jnp.array([[3.0, 4.0]]), jnp.array([[1.0], [0.0]])).tolist()
    [[-3.0, 4.0]]
    """
    return x - 2 * product(product(x, jnp.conj(basis)), jnp.swapaxes(basis, -1, -2))


@at_least_float32
def orthonormal_basis(v: Matrices) -> Matrices:
    """Return orthonormal columns Q with the span of the columns of V, so that QQᴴ = V(VᴴV)⁻¹Vᴴ.

    Householder's QR gives a Q that is orthonormal up to rounding, however dependent the columns of V are. So I − 2QQᴴ
    is always unitary.

    The derivative, dQ = (I − QQᴴ)·dV·R⁻¹, rotates the span, not the basis inside it. It is correct for any function of
    the span, such as `reflect`. A column that depends on those before it gets no gradient.

    Args:
        v: ``… c r`` with r ≤ c.

    >>> orthonormal_basis(jnp.array([[3.0], [4.0]])).tolist()
    [[-0.6...], [-0.8...]]
    """
    return _factors(v)[0]


@jax.custom_jvp
def _factors(v: Matrices) -> tuple[Matrices, Matrices]:
    """Return Q, and R = QᴴV. R is triangular, but its derivative is not, since that of Q only rotates the span."""
    q, r = jnp.linalg.qr(v)
    return q, r


@_factors.defjvp
def _derivative(primals, tangents):
    (v,), (change,) = primals, tangents
    q, r = _factors(v)
    size = jax.lax.stop_gradient(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
    kept = (size > 1e-6 * jnp.max(size, -1, keepdims=True))[..., None, :]
    inside = product(adjoint(q), change)
    across = change - product(q, inside)
    turned = product(across, _inverse(jnp.where(kept, r, jnp.eye(r.shape[-1], dtype=r.dtype))))
    return (q, r), (jnp.where(kept, turned, 0), inside)


@jax.custom_jvp
def _inverse(r: Matrices) -> Matrices:
    """Invert a triangular matrix whose change may be non-triangular, which a triangular solve would ignore."""
    return jax.scipy.linalg.solve_triangular(r, jnp.broadcast_to(jnp.eye(r.shape[-1], dtype=r.dtype), r.shape))


@_inverse.defjvp
def _derivative_of_inverse(primals, tangents):
    inverse = _inverse(*primals)
    return inverse, -product(inverse, product(tangents[0], inverse))
