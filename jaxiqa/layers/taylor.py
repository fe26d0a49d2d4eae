"""The exponential of matrices by a Taylor polynomial with scaling and squaring: matrix products only."""

import math

import jax
import jax.numpy as jnp

from jaxiqa.layers.linear_algebra import Matrices, Parts, multiply, newton_schulz

# exp up to degree 12 with four products (Bader, Blanes, Casas, "Computing the matrix exponential with an optimized
# Taylor polynomial approximation", arXiv:1710.10989): rows of B1 … B4 over I, A, A², A³.
COEFFICIENTS = (
    (9.0198e-16, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740),
    (5.31597895759871264183, 1.19926790417132231573, 0.01179296240992997031, 0.01108844528519167989),
    (0.18188869982170434744, 0.05502798439925399070, 0.09351590770535414968, 0.00610700528898058230),
    (-2.0861320e-13, -0.13181061013830184015, -0.02027855540259589079, -0.00675951846863086359),
)

RADIUS = {"float32": 1.46, "float64": 0.5}
"""Spectral norm up to which the polynomial is exact up to rounding; larger matrices are halved first, then squared."""

UNCHECKED = 8
"""Number of squarings between corrections of rounding: each squaring doubles the distance from a unitary matrix, and a
correction squares that distance."""


def taylor(a: Matrices) -> Matrices:
    """Compute exp(A) of skew-Hermitian matrices, before the last correction.

    A is halved s times until ‖A‖₂ is at most `RADIUS`, by the bound ‖A‖₂ ≤ ‖A²‖_F^½, which is free since A² is needed
    anyway; s is the largest over the matrices. A² is computed from A divided by a power of two, so it cannot overflow.
    Corrections of rounding are not differentiated: forward mode gives the derivative of the polynomial.
    """
    x = (a.real, a.imag) if jnp.iscomplexobj(a) else (a,)
    dtype = x[0].dtype
    size = jax.lax.stop_gradient(jnp.stack([jnp.max(jnp.abs(part), initial=0) for part in x]).max())
    limit = jnp.finfo(dtype).maxexp - 8
    exponent = jnp.clip(jnp.frexp(size)[1], -limit, limit)
    x = _sum((_power(-exponent, dtype), x))
    square = multiply(x, x)
    bound = jnp.sqrt(jnp.sqrt(jnp.max(sum(jnp.sum(part**2, (-2, -1)) for part in square), initial=0)))
    bound = jnp.maximum(jax.lax.stop_gradient(bound), jnp.finfo(dtype).tiny)
    halvings = jnp.ceil(jnp.log2(bound / RADIUS[dtype.name])).astype(jnp.int32) + exponent
    halvings = jnp.clip(halvings, 0, 2 * jnp.finfo(dtype).maxexp)
    scale = _power(exponent - halvings, dtype)
    return _joined(_squared(_polynomial(_sum((scale, x)), _sum((scale**2, square))), halvings))


def _polynomial(x: Parts, square: Parts) -> Parts:
    """Evaluate degree 12 with four products in float32; the published coefficients are too inexact for float64."""
    cube = multiply(x, square)
    identity = jnp.eye(x[0].shape[-1], dtype=x[0].dtype)
    if x[0].dtype == jnp.float64:
        return _by_horner(identity, x, square, cube)
    b1, b2, b3, b4 = (
        (first[0] + weights[0] * identity, *first[1:])
        for weights in COEFFICIENTS
        for first in [_sum(*zip(weights[1:], (x, square, cube), strict=True))]
    )
    sixth = _sum((1, b3), (1, multiply(b4, b4)))
    return _sum((1, b1), (1, multiply(_sum((1, b2), (1, sixth)), sixth)))


def _by_horner(identity: jax.Array, x: Parts, square: Parts, cube: Parts) -> Parts:
    """Evaluate degree 14 in powers of the cube, Σₖ A³ᵏ (I/(3k)! + A/(3k+1)! + A²/(3k+2)!), with six products."""

    def block(k: int) -> Parts:
        one, two, three = (1 / math.factorial(3 * k + i) for i in range(3))
        real, *imaginary = _sum((two, x), (three, square))
        return real + one * identity, *imaginary

    u = block(4)
    for k in (3, 2, 1, 0):
        u = _sum((1, block(k)), (1, multiply(cube, u)))
    return u


def _squared(u: Parts, times: jax.Array) -> Parts:
    """Return U^(2^times), corrected after every `UNCHECKED` squarings."""

    def corrected(u: Parts) -> Parts:
        change = _sum((1, newton_schulz(u)), (-1, u))
        return _sum((1, u), (1, jax.tree.map(jax.lax.stop_gradient, change)))

    def square(state: tuple[jax.Array, Parts]) -> tuple[jax.Array, Parts]:
        left, u = state[0] - 1, multiply(state[1], state[1])
        return left, jax.lax.cond((left > 0) & (left % UNCHECKED == 0), corrected, lambda u: u, u)

    return jax.lax.while_loop(lambda state: state[0] > 0, square, (times, u))[1]


def _sum(*terms):
    """Return Σ weight · matrix, for matrices given as (real, imaginary)."""
    weights, matrices = zip(*terms, strict=True)
    return tuple(sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*matrices, strict=True))


def _power(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return 2^exponent, exactly."""
    return jnp.ldexp(jnp.ones((), dtype), exponent)


def _joined(u: Parts) -> Matrices:
    return jax.lax.complex(*u) if len(u) == 2 else u[0]
