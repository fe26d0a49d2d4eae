"""Steps on the manifold of matrices with orthonormal columns (or rows): the matrix itself is the trained parameter.

A step is ``W ← exp(Ω)·W``, Ω skew-Hermitian and small, so W stays orthonormal without a map from free parameters that
would be computed, and differentiated, in every pass. Complex matrices are given as (real, imaginary) parts, because
real products are faster (`jaxiqa.layers.linear_algebra.multiply`).
"""

from collections.abc import Callable
from functools import partial
from math import factorial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.exponential import expm_taylor
from jaxiqa.layers.linear_algebra import Parts, multiply, newton_schulz

ORDERS: tuple[tuple[float, int], ...] = ((0.02, 2), (0.15, 4), (0.75, 8))
"""Largest bound of ‖Ω‖₂ -> order of the Taylor polynomial; above the last one the exponential is computed in full."""

ROUNDING = 1e-7
"""Distance from orthonormal columns that the rounding of a step adds, in float32."""

ROUNDING_IN_FULL = 5e-8
"""What a step by the full exponential of m×m matrices adds to that, divided by √m."""

TOLERANCE = 2e-6
"""Bound of the accumulated distance at which the matrices are corrected."""


@at_least_float32
def rotation(w: Parts, step: Parts) -> Parts:
    """Return the skew-Hermitian ``Ω = ½(D·Wᴴ − W·Dᴴ)``: exp(Ω)·W is the step D, without what leaves the manifold.

    Of square matrices, Ω·W is the part of D along the manifold. If D is the gradient of a function of W, the function
    grows by ‖Ω‖² per t along ``exp(tΩ)·W``. Of a wide matrix (more columns than rows) the adjoint is rotated: Ω acts on
    the longer side.

    Args:
        w: ``… n p``, as (real,) or (real, imaginary).
        step: D, as ``w``; of a gradient, ∂f/∂real and ∂f/∂imaginary.

    Returns:
        ``… m m``, m = max(n, p).

    >>> w, d = jnp.eye(2), jnp.array([[5.0, 2.0], [0.0, 0.0]])
    >>> rotation((w,), (d,))[0].tolist()
    [[0.0, 1.0], [-1.0, 0.0]]

    Reference: Edelman, Arias and Smith, "The Geometry of Algorithms with Orthogonality Constraints",
    arXiv:physics/9806030 (the canonical metric).
    """
    w, step = _tall(w), _tall(step)
    # Without the barrier XLA fuses a product of one term with the difference, which is then not exactly skew, and an
    # optimiser that divides each entry by its usual size makes full steps of that rounding.
    outer = jax.lax.optimization_barrier(multiply(step, _adjoint(w)))
    return tuple((part - turned) / 2 for part, turned in zip(outer, _adjoint(outer), strict=True))


@at_least_float32
def rotate(w: Parts, omega: Parts) -> tuple[Parts, Float[Array, ""]]:
    """Return ``exp(Ω)·W``, and a bound of the distance from orthonormal columns that the step adds.

    The exponential is a Taylor polynomial in Ω; its order is 2, 4 or 8 by the largest ‖Ω²‖_F^½ ≥ ‖Ω‖₂ of the batch
    (`ORDERS`). Above 0.75 the exponential is exact. The singular values of a polynomial of the even order n at
    ‖Ω‖₂ = r differ from 1 by at most r^(n+2)/(n!·(n + 2)).

    Args:
        w: ``… n p``, as (real,) or (real, imaginary).
        omega: ``… m m``, m = max(n, p), skew-Hermitian.

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513. **Differs from the paper**: the order depends on a bound of ‖Ω‖₂, not on ‖Ω‖_F, and is higher, so
    that the error of a step is bounded.
    """
    square = multiply(omega, omega)
    size = jnp.sqrt(jnp.sqrt(jnp.max(sum(jnp.sum(part**2, (-2, -1)) for part in square), initial=0)))
    branches: list[Callable[..., Parts]] = [partial(_polynomial, order=order) for _, order in ORDERS]
    place = jnp.sum(size > jnp.asarray([limit for limit, _ in ORDERS], size.dtype))
    tall = jax.lax.switch(place, [*branches, _exponential], _tall(w), omega, square)
    errors = [size ** (order + 2) / (factorial(order) * (order + 2)) for _, order in ORDERS]
    added = jnp.stack([*errors, jnp.full_like(size, ROUNDING_IN_FULL * omega[0].shape[-1] ** 0.5)])[place]
    return (_adjoint(tall) if w[0].shape[-2] < w[0].shape[-1] else tall), added + ROUNDING


def corrected(w: Parts) -> Parts:
    """Return W after one Newton–Schulz step towards the nearest matrix with orthonormal columns (or rows).

    It squares the distance: from `TOLERANCE` to rounding.
    """
    tall = newton_schulz(_tall(w))
    return _adjoint(tall) if w[0].shape[-2] < w[0].shape[-1] else tall


@at_least_float32
def nearest(w: Parts, steps: int = 40) -> Parts:
    """Return the nearest matrix with orthonormal columns (or rows), by ``steps`` of `corrected`.

    They converge if all singular values are in (0, √3), as of a mean of orthogonal matrices. A small one grows by the
    factor 3/2 per step: with 40 steps, from 1e-6 on.

    >>> w = jnp.array([[0.6, 0.0], [0.0, -0.9]])
    >>> jnp.round(nearest((w,))[0], 5).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    return jax.lax.fori_loop(0, steps, lambda _, w: corrected(w), w)


def _polynomial(w: Parts, omega: Parts, square: Parts, *, order: int) -> Parts:
    """Return W + (Ω + Ω²/2! + …)·W, by Horner's rule in Ω². What is added to W is small, and so is its rounding."""
    identity = jnp.eye(square[0].shape[-1], dtype=square[0].dtype)
    higher = tuple(part / factorial(order) for part in square)
    for k in range(order - 2, 0, -2):  # higher = Ω²·(I/k! + Ω/(k + 1)! + higher)
        real, *imaginary = (a + b / factorial(k + 1) for a, b in zip(higher, omega, strict=True))
        higher = multiply(square, (real + identity / factorial(k), *imaginary))
    change = tuple(a + b for a, b in zip(omega, higher, strict=True))
    return tuple(a + b for a, b in zip(w, multiply(change, w), strict=True))


def _exponential(w: Parts, omega: Parts, square: Parts) -> Parts:
    del square
    if len(omega) == 1:
        return corrected(multiply((expm_taylor(omega[0]),), w))
    whole = expm_taylor(jax.lax.complex(*omega))
    return corrected(multiply((whole.real, whole.imag), w))


def _tall(w: Parts) -> Parts:
    return _adjoint(w) if w[0].shape[-2] < w[0].shape[-1] else w


def _adjoint(w: Parts) -> Parts:
    return tuple(sign * jnp.swapaxes(part, -1, -2) for sign, part in zip((1, -1), w, strict=False))
