"""Products at full precision, and what is built from them. TensorFloat-32 would cost orthogonality at 1e-3."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

HIGHEST = jax.lax.Precision.HIGHEST

Matrices = Complex[Array, "*batch _ _"] | Float[Array, "*batch _ _"]


def full(x: Array) -> Array:
    """``x`` as float32 (or wider, if it is): orthogonal maps compute in it whatever the network around them does."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def adjoint(a: Matrices) -> Matrices:
    """Conjugate transpose."""
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def product(a: Matrices, b: Matrices) -> Matrices:
    """Matrix product."""
    return jnp.matmul(a, b, precision=HIGHEST)


def polish(u: Matrices) -> Matrices:
    """One Newton–Schulz step towards the nearest matrix with orthonormal columns: U(3I − UᴴU)/2.

    It squares the error ‖UᴴU − I‖, and so rescues rounding, not a wrong exponential.
    """
    return 1.5 * u - 0.5 * product(u, product(adjoint(u), u))


def random_orthogonal(key: jax.Array, n: int) -> Float[Array, "n n"]:
    """An orthogonal matrix, uniform over O(n): determinants +1 and −1 are equally likely.

    >>> q = random_orthogonal(jax.random.key(0), 3)
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-6))
    True
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (n, n)))
    return polish(q * jnp.sign(jnp.diagonal(r)))
