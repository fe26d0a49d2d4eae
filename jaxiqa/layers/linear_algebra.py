"""Matrix products at full precision, and functions built from them. TensorFloat-32 would break orthogonality (1e-3)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from jaxiqa.core.precision import at_least_float32

HIGHEST = jax.lax.Precision.HIGHEST

Parts = tuple[Float[Array, "*batch _ _"], ...]
Matrices = Complex[Array, "*batch _ _"] | Float[Array, "*batch _ _"]


def full(x: Array) -> Array:
    """Convert ``x`` to float32 unless it is wider: orthogonal maps compute in it, whatever the network computes in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def adjoint(a: Matrices) -> Matrices:
    """Return the conjugate transpose."""
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def product(a: Matrices, b: Matrices) -> Matrices:
    """Return the matrix product; of complex matrices, by real products (see `multiply`)."""
    if not (jnp.iscomplexobj(a) and jnp.iscomplexobj(b)):
        return jnp.matmul(a, b, precision=HIGHEST)
    return jax.lax.complex(*multiply((a.real, a.imag), (b.real, b.imag)))


def multiply(a: Parts, b: Parts) -> Parts:
    """Multiply matrices given as (real,) or (real, imaginary); complex ones by three real products (Gauss), not four.

    On CPUs, XLA also multiplies real matrices several times faster than complex ones.
    """
    if len(a) == 1:
        return (jnp.matmul(a[0], b[0], precision=HIGHEST),)
    real, imaginary = (jnp.matmul(x, y, precision=HIGHEST) for x, y in zip(a, b, strict=True))
    both = jnp.matmul(a[0] + a[1], b[0] + b[1], precision=HIGHEST)
    return real - imaginary, both - real - imaginary


def polish(u: Matrices) -> Matrices:
    """Take one Newton–Schulz step towards the nearest matrix with orthonormal columns: U(3I − UᴴU)/2.

    It squares the error ‖UᴴU − I‖, so it corrects rounding, but not a wrong exponential.
    """
    parts = newton_schulz((u.real, u.imag) if jnp.iscomplexobj(u) else (u,))
    return jax.lax.complex(*parts) if len(parts) == 2 else parts[0]


@at_least_float32
def newton_schulz(u: Parts) -> Parts:
    """Apply `polish` to matrices given as (real,) or (real, imaginary)."""
    turned = tuple(sign * jnp.swapaxes(part, -1, -2) for sign, part in zip((1, -1), u, strict=False))
    return tuple(1.5 * part - 0.5 * third for part, third in zip(u, multiply(u, multiply(turned, u)), strict=True))


def random_orthogonal(key: jax.Array, n: int) -> Float[Array, "n n"]:
    """Draw an orthogonal matrix, uniform over O(n): determinants +1 and −1 are equally likely.

    >>> q = random_orthogonal(jax.random.key(0), 3)
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-6))
    True
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (n, n)))
    return polish(q * jnp.sign(jnp.diagonal(r)))


def in_chunks(function: Callable[..., Array], arrays: tuple[Array, ...], size: int) -> Array:
    """Compute ``function(*arrays)`` on parts of the leading axis, at most ``size`` at a time, one after another."""
    length = len(arrays[0])
    if length <= size:
        return function(*arrays)
    # Parts of equal size need no padding, which would copy everything.
    even = [part for part in range(size // 2 + 1, size + 1) if length % part == 0]
    size = even[-1] if even else size
    count = -(-length // size)
    size = -(-length // count)

    def divided(x: Array) -> Array:
        x = jnp.pad(jnp.asarray(x), ((0, count * size - length), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(count, size, *x.shape[1:])

    result = jax.lax.map(lambda parts: function(*parts), tuple(map(divided, arrays)))
    return result.reshape(count * size, *result.shape[2:])[:length]
