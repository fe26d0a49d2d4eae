"""The exponential of skew-Hermitian matrices, two ways, each with its own derivative.

The derivatives JAX would find are undefined at repeated eigenvalues (`eigh`) or keep every intermediate product
(Taylor).
"""

import math

import jax
import jax.numpy as jnp

from jaxiqa.layers.linear_algebra import Matrices, adjoint, in_chunks, multiply, polish, product


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


CACHE_BYTES = {"cpu": 2**18}
"""Bytes of matrices worked on at a time: on CPUs, what stays in a core's cache with everything made of it."""


@jax.custom_vjp
def expm_taylor(a: Matrices) -> Matrices:
    """exp(A) by a Taylor polynomial of degree 12 with scaling and squaring: matrix products only.

    A is halved s times until ‖A‖₂ ≤ 1.46, by the bound ‖A‖₂ ≤ ‖A²‖_F^½, which costs nothing since A² is needed
    anyway; s is the largest over the matrices that are worked on together: all on accelerators, `CACHE_BYTES` of them
    on CPUs. Backward, only A is kept: the rule is one forward-mode pass, L(Aᵀ, C).

    >>> jnp.round(expm_taylor(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _some_at_a_time(lambda a: polish(_taylor(a)), a)


def _taylor(a):
    x = (a.real, a.imag) if jnp.iscomplexobj(a) else (a,)
    square = multiply(x, x)
    bound = jnp.sqrt(jnp.sqrt(jnp.max(sum(jnp.sum(part**2, (-2, -1)) for part in square))))
    halvings = jnp.ceil(jnp.log2(jnp.maximum(jax.lax.stop_gradient(bound), 1e-30) / _TAYLOR_12_RADIUS))
    halvings = jnp.clip(halvings, 0, 60)
    scale = jnp.exp2(-halvings).astype(x[0].dtype)
    x, square = _sum((scale, x)), _sum((scale**2, square))
    cube = multiply(x, square)
    identity = jnp.eye(a.shape[-1], dtype=x[0].dtype)
    b1, b2, b3, b4 = (
        (first[0] + weights[0] * identity, *first[1:])
        for weights in _TAYLOR_12
        for first in [_sum(*zip(weights[1:], (x, square, cube), strict=True))]
    )
    sixth = _sum((1, b3), (1, multiply(b4, b4)))
    u = _sum((1, b1), (1, multiply(_sum((1, b2), (1, sixth)), sixth)))
    again = lambda carry: (carry[0] - 1, multiply(carry[1], carry[1]))  # noqa: E731
    u = jax.lax.while_loop(lambda carry: carry[0] > 0, again, (halvings, u))[1]
    return jax.lax.complex(*u) if len(u) == 2 else u[0]


def _sum(*terms):
    """Σ weight · matrix, of matrices as (real, imaginary)."""
    weights, matrices = zip(*terms, strict=True)
    return tuple(sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*matrices, strict=True))


def _some_at_a_time(function, *arrays):
    shape, itemsize = arrays[0].shape, arrays[0].dtype.itemsize
    flat = tuple(a.reshape(-1, *shape[-2:]) for a in arrays)
    room = CACHE_BYTES.get(jax.default_backend())
    size = len(flat[0]) if room is None else max(room // (itemsize * shape[-1] ** 2), 1)
    return in_chunks(function, flat, size).reshape(shape)


def _taylor_backward(a, cotangent):
    derivative = lambda a, c: jax.jvp(_taylor, (a,), (c,))[1]  # noqa: E731
    return (_some_at_a_time(derivative, jnp.swapaxes(a, -1, -2), cotangent),)


expm_taylor.defvjp(lambda a: (expm_taylor(a), a), _taylor_backward)
