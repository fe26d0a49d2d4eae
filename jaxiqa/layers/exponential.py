"""The exponential of skew-Hermitian matrices, two ways, each with its own derivative.

The derivatives JAX would find are undefined at repeated eigenvalues (`eigh`) or keep every intermediate product
(Taylor).
"""

import math

import jax
import jax.numpy as jnp

from jaxiqa.layers.linear_algebra import Matrices, adjoint, polish, product


@jax.custom_vjp
def expm_eigh(a: Matrices) -> Matrices:
    """exp(A) = V e^{iλ} Vᴴ with −iA = V λ Vᴴ; the derivative is that of Daleckii and Krein.

    L(A, E) = V((VᴴEV) ∘ Φ)Vᴴ with Φ_jk = e^{i(λ_j+λ_k)/2} · sin(δ)/δ, δ = (λ_j − λ_k)/2: finite where eigenvalues
    coincide.

    >>> jnp.round(expm_eigh(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _expm_eigh_forward(a)[0]


def _expm_eigh_forward(a):
    values, vectors = jnp.linalg.eigh(-1j * a)
    u = product(vectors * jnp.exp(1j * values)[..., None, :], adjoint(vectors))
    u = polish(u if jnp.iscomplexobj(a) else u.real)
    return u, (values, vectors, a)


def _expm_eigh_backward(saved, cotangent):
    values, vectors, a = saved
    half_sum = (values[..., :, None] + values[..., None, :]) / 2
    half_difference = (values[..., :, None] - values[..., None, :]) / 2
    phi = jnp.exp(1j * half_sum) * jnp.sinc(half_difference / math.pi)
    # JAX's cotangents pair without conjugation, so the rule is L(A, Cᵀ)ᵀ.
    inner = product(adjoint(vectors), product(jnp.swapaxes(cotangent, -1, -2), vectors)) * phi
    result = jnp.swapaxes(product(vectors, product(inner, adjoint(vectors))), -1, -2)
    return (result if jnp.iscomplexobj(a) else result.real,)


expm_eigh.defvjp(_expm_eigh_forward, _expm_eigh_backward)

# exp up to degree 12 with four products (Bader, Blanes, Casas, "Computing the matrix exponential with an optimized
# Taylor polynomial approximation", arXiv:1710.10989): rows of B1 … B4 over I, A, A², A³.
_TAYLOR_12 = (
    (9.0198e-16, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740),
    (5.31597895759871264183, 1.19926790417132231573, 0.01179296240992997031, 0.01108844528519167989),
    (0.18188869982170434744, 0.05502798439925399070, 0.09351590770535414968, 0.00610700528898058230),
    (-2.0861320e-13, -0.13181061013830184015, -0.02027855540589259079, -0.00675951846863086359),
)
_TAYLOR_12_RADIUS = 1.46
"""Largest spectral norm at which the truncation error of degree 12 stays below float32 rounding."""


@jax.custom_vjp
def expm_taylor(a: Matrices) -> Matrices:
    """exp(A) by a Taylor polynomial of degree 12 with scaling and squaring: matrix products only.

    A is halved s times until ‖A‖₂ ≤ 1.46, by the bound ‖A‖₂ ≤ ‖A²‖_F^½, which costs nothing since A² is needed
    anyway; s is the largest over the batch. Backward, only A is kept: the rule is one forward-mode pass, L(Aᵀ, C).

    >>> jnp.round(expm_taylor(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return polish(_taylor(a))


def _taylor(a):
    identity = jnp.eye(a.shape[-1], dtype=a.dtype)
    square = product(a, a)
    bound = jnp.sqrt(jnp.max(jnp.sqrt(jnp.sum(jnp.abs(square) ** 2, (-2, -1)))))
    halvings = jnp.ceil(jnp.log2(jnp.maximum(jax.lax.stop_gradient(bound), 1e-30) / _TAYLOR_12_RADIUS))
    halvings = jnp.clip(halvings, 0, 60)
    scale = jnp.exp2(-halvings).astype(a.real.dtype)
    a, square = a * scale, square * scale**2
    powers = (identity, a, square, product(a, square))
    b1, b2, b3, b4 = (sum(weight * power for weight, power in zip(row, powers, strict=True)) for row in _TAYLOR_12)
    sixth = b3 + product(b4, b4)
    u = b1 + product(b2 + sixth, sixth)
    again = lambda carry: (carry[0] - 1, product(carry[1], carry[1]))  # noqa: E731
    return jax.lax.while_loop(lambda carry: carry[0] > 0, again, (halvings, u))[1]


def _taylor_backward(a, cotangent):
    return (jax.jvp(_taylor, (jnp.swapaxes(a, -1, -2),), (cotangent,))[1],)


expm_taylor.defvjp(lambda a: (expm_taylor(a), a), _taylor_backward)
