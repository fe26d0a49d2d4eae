"""The largest singular value of a convolution as a differentiable number, for losses."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_count
from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.fourier import phases, response
from jaxiqa.layers.linear_algebra import HIGHEST


@at_least_float32
def spectral_norm(
    kernel: Float[Array, "kh kw i cout"], *, groups: int = 1, grid: int = 8, steps: int = 16
) -> Float[Array, ""]:
    """Return the spectral norm of a circular convolution, stride 1, on a ``grid`` × ``grid`` map, by power iteration.

    The map Ŵ(f) of each frequency f is a matrix; the norm is σ = max over f of σ₁(Ŵ(f)). Each σ₁ is found by ``steps``
    power iterations from a fixed start, all frequencies side by side. The gradient is that of uᴴ Ŵ v at the vectors
    found, which is the gradient of σ₁ where they have converged; second derivatives go through the iteration.

    It is a *lower* bound of the norm for all map sizes and paddings, for losses; `jaxiqa.lipschitz.spectral.conv_norm`
    is an upper bound. The steepest frequency may lie between those of the map: per axis with k taps, the result is at
    least cos(π(k − 1) / (2·grid)) of the norm, .92 for 3 taps and .38 for 7. A grid of 4·k has .92 for any kernel. A
    strided convolution has at most this norm too.

    Args:
        kernel: ``kh kw cin/groups cout``; a dense layer's matrix is ``1 1 cin cout``.
        groups: of the convolution; ``cin`` is depthwise.
        grid: side of the map, at least that of the kernel. A 1×1 kernel has one frequency.
        steps: of the iteration.

    Raises:
        ValueError: a number below 1, or ``groups`` does not divide the output channels.

    >>> round(float(spectral_norm(jnp.ones((3, 3, 1, 1)))), 4)
    9.0
    >>> jax.grad(lambda a: spectral_norm(a * jnp.ones((1, 1, 2, 2))))(3.0).round(3).item()
    2.0

    Reference: Yoshida and Miyato, "Spectral Norm Regularization for Improving the Generalizability of Deep Learning",
    arXiv:1705.10941; Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers", arXiv:1805.10408.
    """
    for name, value in (("groups", groups), ("grid", grid), ("steps", steps)):
        check_count(name, value, 1)
    kh, kw, members, cout = kernel.shape
    if cout % groups:
        raise ValueError(f"groups={groups} does not divide the {cout} output channels")
    if kh * kw == 1:
        matrices = kernel.reshape(1, members, groups, cout // groups).swapaxes(1, 2)
    else:
        rows = kernel.reshape(kh, kw, members, groups, -1).swapaxes(2, 3).reshape(kh, kw, groups * members, -1)
        side = max(grid, kh, kw)
        matrices = response(rows, phases((kh, kw), (side, side)), groups)
    return _largest(steps, matrices).max()


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _largest(steps: int, matrices: Array) -> Array:
    """Return uᴴ Ŵ v of each matrix, of shape ``f g``. It is the length of Ŵᴴ u, so never negative."""
    return _along(matrices, *_vectors(steps, matrices))


@_largest.defjvp
def _largest_jvp(steps: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    u, v = _vectors(steps, primals[0])
    return _along(primals[0], u, v), _along(tangents[0], u, v)


def _along(matrices: Array, u: Array, v: Array) -> Array:
    """Return the real part of uᴴ Ŵ v."""
    return jnp.einsum("fgm,fgmn,fgn->fg", u.conj(), matrices, v, precision=HIGHEST).real


def _vectors(steps: int, matrices: Array) -> tuple[Array, Array]:
    """Return approximate first singular vectors u and v."""
    # Numbers without a pattern, so that hardly any matrix has its first singular vector at right angles to them.
    start = jnp.cos(jnp.square(1.0 + jnp.arange(matrices.shape[3]))).astype(matrices.dtype)
    start = jnp.broadcast_to(start, matrices.shape[:2] + matrices.shape[3:])
    return jax.lax.fori_loop(0, steps, lambda _, pair: _iterate(matrices, pair[1]), _iterate(matrices, start))


def _iterate(matrices: Array, v: Array) -> tuple[Array, Array]:
    """Return unit vectors u ∝ W v and v ∝ Wᴴ u; zeros for a zero matrix."""
    u = _unit(jnp.einsum("fgmn,fgn->fgm", matrices, v, precision=HIGHEST))
    return u, _unit(jnp.einsum("fgmn,fgm->fgn", matrices.conj(), u, precision=HIGHEST))


def _unit(x: Array) -> Array:
    squared = (jnp.square(x.real) + jnp.square(x.imag)).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(squared > 0, squared, 1))  # neither 0/0 nor the infinite derivative of √0
