"""The exponential of skew-Hermitian matrices by two methods, with derivatives of every order in both modes.

JAX's own derivatives are undefined at repeated eigenvalues (`eigh`), or have no reverse mode (loops of unknown length).
The n-th derivative Dⁿexp(A)[E₁ … Eₙ] is linear and symmetric in its directions. So one primitive ``(A, E₁ … Eₙ)`` is
closed under differentiation: dA adds one direction, and dEᵢ replaces Eᵢ. It is also closed under transposition:
exp(Aᵀ) = exp(A)ᵀ, and the transpose in a direction is Dⁿexp(A)[…, Cᵀ]ᵀ.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import Matrices, adjoint, in_chunks, polish, product
from jaxiqa.layers.taylor import taylor

CACHE_BYTES = {"cpu": 2**18}
"""Bytes of matrices processed at a time: on CPUs, they and all intermediate results fit in a core's cache."""


@at_least_float32
def expm_taylor(a: Matrices) -> Matrices:
    """Compute exp(A) by a Taylor polynomial with scaling and squaring (`jaxiqa.layers.taylor`).

    The result is unitary up to rounding for every norm that the type can hold. Its distance from exp(A) is about ‖A‖
    times the rounding of the type, which equals the effect of rounding A: 2e-15 in complex128 at ‖A‖ = 20. A
    first-order gradient stores only A. The number of squarings is that of the largest matrix processed together: all
    on accelerators, `CACHE_BYTES` of them on CPUs.

    Args:
        a: skew-Hermitian, ``… c c``; half precision is computed in float32.

    >>> jnp.round(expm_taylor(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return exponential_p.bind(a, method="taylor")


@at_least_float32
def expm_eigh(a: Matrices) -> Matrices:
    """Compute exp(A) = V e^{iλ} Vᴴ with −iA = V λ Vᴴ; the first derivative is that of Daleckii and Krein.

    L(A, E) = V((VᴴEV) ∘ Φ)Vᴴ with Φ_jk = e^{i(λ_j+λ_k)/2} · sin(δ)/δ, δ = (λ_j − λ_k)/2: finite at equal eigenvalues.
    Higher derivatives are those of `expm_taylor`, which do not use eigenvalues.

    >>> jnp.round(expm_eigh(jnp.zeros((2, 2))), 5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return exponential_p.bind(a, method="eigh")


exponential_p = Primitive("matrix_exponential")


@partial(jax.jit, static_argnames="method")
def _compute(a: Matrices, *directions: Matrices, method: str) -> Matrices:
    if method == "eigh" and len(directions) < 2:
        return _by_eigenvalues(a, *directions)
    return _some_at_a_time(_by_taylor, a, *directions)


def _by_taylor(a, *directions):
    function = taylor if directions else lambda a: polish(taylor(a))
    for direction in directions:
        function = partial(_along, function, direction)
    return function(a)


def _along(function, direction, a):
    return jax.jvp(function, (a,), (direction,))[1]


def _by_eigenvalues(a, *direction):
    values, vectors = jnp.linalg.eigh(-1j * a)
    if not jnp.iscomplexobj(a):
        values = (values - values[..., ::-1]) / 2  # pairs ±λ; without this, rounding changes e^{iλ} of large ones
    if direction:
        half_sum = (values[..., :, None] + values[..., None, :]) / 2
        half_difference = (values[..., :, None] - values[..., None, :]) / 2
        phi = jnp.exp(1j * half_sum) * jnp.sinc(half_difference / math.pi)
        inner = product(adjoint(vectors), product(direction[0].astype(vectors.dtype), vectors)) * phi
        result = product(vectors, product(inner, adjoint(vectors)))
    else:
        result = product(vectors * jnp.exp(1j * values)[..., None, :], adjoint(vectors))
    result = result if jnp.iscomplexobj(a) else result.real
    return result if direction else polish(result)


def _some_at_a_time(function, *arrays):
    shape, itemsize = arrays[0].shape, arrays[0].dtype.itemsize
    flat = tuple(a.reshape(math.prod(shape[:-2]), *shape[-2:]) for a in arrays)
    room = CACHE_BYTES.get(jax.default_backend())
    size = len(flat[0]) if room is None else max(room // (itemsize * shape[-1] ** 2), 1)
    return in_chunks(function, flat, size).reshape(shape)


def _derivative(primals, tangents, *, method):
    a, *directions = primals
    along_a, *changes = tangents
    terms = [] if type(along_a) is ad.Zero else [(a, *directions, along_a)]
    for i, change in enumerate(changes):
        if type(change) is not ad.Zero:
            terms.append((a, *directions[:i], *directions[i + 1 :], change))
    value = exponential_p.bind(*primals, method=method)
    tangent = sum(exponential_p.bind(*term, method=method) for term in terms)
    return value, tangent if terms else jnp.zeros_like(value)


def _transpose(cotangent, a, *directions, method):
    result: Any
    place = next(i for i, direction in enumerate(directions) if ad.is_undefined_primal(direction))
    if type(cotangent) is ad.Zero:
        result = ad.Zero(directions[place].aval)
    else:
        others = (*directions[:place], *directions[place + 1 :])
        turned = exponential_p.bind(a, *others, jnp.swapaxes(cotangent, -1, -2), method=method)
        result = jnp.swapaxes(turned, -1, -2)
    return [None, *(result if i == place else None for i in range(len(directions)))]


def _batch(arrays, axes, *, method):
    size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    aligned = [
        jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        for array, axis in zip(arrays, axes, strict=True)
    ]
    return exponential_p.bind(*aligned, method=method), 0


exponential_p.def_impl(_compute)
exponential_p.def_abstract_eval(lambda a, *directions, method: a)
mlir.register_lowering(exponential_p, mlir.lower_fun(_compute, multiple_results=False))
ad.primitive_jvps[exponential_p] = _derivative
ad.primitive_transposes[exponential_p] = _transpose
batching.primitive_batchers[exponential_p] = _batch
