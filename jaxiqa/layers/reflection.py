"""Reflections of low rank: unitary matrices that cost c²r instead of c³, and are never formed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import Matrices, adjoint, product


@at_least_float32
def reflect(
    x: Complex[Array, "*batch b c"] | Float[Array, "*batch b c"], basis: Matrices
) -> Complex[Array, "*batch b c"] | Float[Array, "*batch b c"]:
    """(I − 2QQᴴ)x for each row x, with Q a basis of orthonormal columns ``c r``: 4bcr products and sums.

    >>> reflect(jnp.array([[3.0, 4.0]]), jnp.array([[1.0], [0.0]])).tolist()
    [[-3.0, 4.0]]
    """
    return x - 2 * product(product(x, jnp.conj(basis)), jnp.swapaxes(basis, -1, -2))


@jax.custom_vjp
def orthonormal_basis(v: Matrices) -> Matrices:
    """Orthonormal columns Q that span what the columns of V span, so that QQᴴ = V(VᴴV)⁻¹Vᴴ.

    By Householder's QR, whose Q is orthonormal to rounding however dependent the columns of V are: I − 2QQᴴ is
    unitary always.

    The derivative, dQ = (I − QQᴴ)·dV·R⁻¹, turns the span and not the basis inside it: right for any function of
    the span, such as `reflect`. A column that depends on those before it gets no gradient.

    Args:
        v: ``… c r`` with r ≤ c.

    >>> orthonormal_basis(jnp.array([[3.0], [4.0]])).tolist()
    [[-0.6...], [-0.8...]]
    """
    return jnp.linalg.qr(v)[0]


def _forward(v):
    q, r = jnp.linalg.qr(v)
    return q, (q, r)


def _backward(saved, cotangent):
    q, r = saved
    size = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1))
    kept = size > 1e-6 * jnp.max(size, -1, keepdims=True)
    rank = r.shape[-1]
    r = jnp.where(kept[..., None, :], r, jnp.eye(rank, dtype=r.dtype))
    across = jnp.swapaxes(cotangent, -1, -2)
    across = across - product(product(across, q), adjoint(q))
    gradient = jax.scipy.linalg.solve_triangular(r, jnp.where(kept[..., None], across, 0))
    return (jnp.swapaxes(gradient, -1, -2),)


orthonormal_basis.defvjp(_forward, _backward)
