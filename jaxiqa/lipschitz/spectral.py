"""Singular values of convolutions and dense maps: exact values, lower bounds and upper bounds.

Every bound is rigorous: computed in float64 on the host, rounded up. Kernels are ``kh kw cin/groups cout``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.types import PRNGKey

SLACK = 1 + 1e-10
"""Covers the rounding of float64 products and decompositions of matrices with a few thousand rows."""

GRAM_ABOVE = 96
"""Matrices with more rows than this are bounded by Gram iteration (products only); smaller ones are decomposed."""

Kernel = Float[np.ndarray, "kh kw i cout"] | Complex[np.ndarray, "kh kw i cout"]

GRIDS = (32, 16, 12, 8)
BUDGET = 4e11
"""Largest number of floating-point operations for the chosen grid."""


@dataclass(frozen=True)
class NormBound:
    """An upper bound of a linear map's spectral norm.

    Attributes:
        value: the bound.
        exact: whether it is the norm itself, up to `SLACK`.
        method: how it was found.
    """

    value: float
    exact: bool
    method: str


def transfer_matrices(
    kernel: Kernel,
    grid: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    half: bool = False,
) -> Complex[np.ndarray, "f g o m"]:
    """Return the matrices by which a circular convolution on maps of size ``grid`` multiplies each output frequency.

    With stride s, the s² frequencies that coincide become columns, each divided by s. With ``half``, only one of each
    pair of conjugate frequencies is returned, which is enough for a real kernel. ``grid`` must be a multiple of
    ``stride``.
    """
    kernel = _checked(kernel, grid, stride, groups, dilation)
    kh, kw, members, cout = kernel.shape
    if grid[0] % stride[0] or grid[1] % stride[1]:
        raise ValueError(f"size={tuple(grid)} must be a multiple of stride={tuple(stride)}")
    rows, columns = grid[0] // stride[0], grid[1] // stride[1]
    down, across = np.arange(rows), np.arange(columns // 2 + 1 if half else columns)
    taps = [np.arange(k) * d for k, d in zip((kh, kw), dilation, strict=True)]
    blocks = []
    for a in range(stride[0]):
        for b in range(stride[1]):
            vertical = np.exp(2j * np.pi / grid[0] * ((down + a * rows)[:, None] * taps[0] % grid[0]))
            horizontal = np.exp(2j * np.pi / grid[1] * ((across + b * columns)[:, None] * taps[1] % grid[1]))
            phase = (vertical[:, None, :, None] * horizontal[None, :, None, :]).reshape(-1, kh * kw)
            blocks.append((phase @ kernel.reshape(kh * kw, -1)).reshape(-1, members, groups, cout // groups))
    stacked = np.concatenate(blocks, axis=1) / np.sqrt(stride[0] * stride[1])
    return stacked.transpose(0, 2, 3, 1)


def circular_singular_values(
    kernel: Kernel,
    size: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
) -> Float[np.ndarray, "f g m"]:
    """Return all singular values of a circular convolution, exactly, by one SVD per output frequency.

    Args:
        kernel: ``kh kw cin/groups cout``, of any size; taps beyond the map wrap around.
        size: (height, width) of the input, a multiple of ``stride``.
        stride, groups, dilation: as in a network.

    >>> circular_singular_values(np.ones((3, 3, 1, 1)), (4, 4)).max().round(6)
    np.float64(9.0)

    Reference: Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers", arXiv:1805.10408.
    """
    matrices = transfer_matrices(kernel, size, stride=stride, groups=groups, dilation=dilation)
    return np.linalg.svd(matrices, compute_uv=False)


def conv_norm(
    kernel: Kernel,
    size: tuple[int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    padding: str = "zeros",
) -> NormBound:
    """Return an upper bound of a convolution's spectral norm.

    A zero-padded convolution is part of a circular one on a larger map. The norm on every map is at most the largest
    norm over all frequencies; a circular map of side n gives n of them. Between them, a trigonometric polynomial of
    degree d exceeds its values on n > 2d equal steps by at most the factor 1/cos(πd/n) (M. Riesz). So a coarse grid
    bounds all maps at once.

    Args:
        kernel: ``kh kw cin/groups cout``.
        size: (height, width) of the input.
        stride, groups, dilation: as in a network.
        padding: ``"zeros"`` (any amount, including none) or ``"circular"``. Other paddings copy values: their constants
            are larger, and there is no bound for them here.

    Raises:
        ValueError: an unknown padding; a size that is not a multiple of the stride with ``padding="circular"``; an
            invalid kernel, size, stride, dilation or number of groups.

    >>> conv_norm(np.ones((3, 3, 1, 1)), (8, 8), padding="circular")
    NormBound(value=9.0..., exact=True, method='SVD per frequency')
    """
    check_choice("padding", padding, ("zeros", "circular"))
    kernel = _checked(kernel, size, stride, groups, dilation)
    if padding == "circular" and (size[0] % stride[0] or size[1] % stride[1]):
        raise ValueError(f"size={tuple(size)} must be a multiple of stride={tuple(stride)}")
    if not np.isfinite(kernel).all():
        return NormBound(float("inf"), False, "the kernel has values that are not finite")
    half = not np.iscomplexobj(kernel)
    options: dict[str, Any] = {"stride": stride, "groups": groups, "dilation": dilation}
    if kernel.shape[:2] == (1, 1):
        matrices = kernel[0, 0].reshape(kernel.shape[2], groups, -1).transpose(1, 2, 0)
        return largest_norm(matrices)
    reach = [(k - 1) * d for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    if padding == "circular":
        h, w = size
    else:
        h, w = (-(-(n + r) // s) * s for n, r, s in zip(size, reach, stride, strict=True))
    whole = h, w
    rows = min(kernel.shape[3] // groups, kernel.shape[2] * stride[0] * stride[1])
    coarse = _grid(rows, groups, reach, stride)
    slack = np.prod([1 / np.cos(np.pi * (r / 2) / n) for r, n in zip(reach, coarse, strict=True)])
    if np.prod(whole) <= np.prod(coarse):
        found = largest_norm(transfer_matrices(kernel, whole, **options, half=half))
        if padding == "circular":
            exact = found.exact
            return NormBound(found.value, exact, f"{found.method} per frequency")
        return NormBound(
            found.value, False, f"zero padding within a circular {whole[0]}x{whole[1]} map, {found.method}"
        )
    found = largest_norm(transfer_matrices(kernel, coarse, **options, half=half))
    return NormBound(found.value * float(slack), False, f"{coarse[0]}x{coarse[1]} frequencies, {found.method}")


def _checked(kernel: Any, size: Any, stride: Any, groups: int, dilation: Any) -> np.ndarray:
    """Check all of these; return the kernel in double precision."""
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or 0 in kernel.shape:
        raise ValueError(f"kernel has shape {kernel.shape}; expected kh kw cin/groups cout")
    for name, pair in (("size", size), ("stride", stride), ("dilation", dilation)):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{name}={pair!r} is not allowed; expected (vertical, horizontal), each at least 1")
    if groups < 1 or kernel.shape[3] % groups:
        raise ValueError(f"groups={groups} does not divide {kernel.shape[3]} output channels")
    return kernel.astype(np.complex128 if np.iscomplexobj(kernel) else np.float64)


def _grid(rows: int, groups: int, reach: list[int], stride: tuple[int, int]) -> tuple[int, int]:
    """Return the finest grid within `BUDGET`: a multiple of the stride, fine enough for the kernel's degree."""
    for side in GRIDS:
        h, w = (-(-max(side, 2 * r + 2) // s) * s for r, s in zip(reach, stride, strict=True))
        if h * w / math.prod(stride) / 2 * groups * 60 * rows**3 <= BUDGET:
            break
    return h, w


def largest_norm(matrices: Complex[np.ndarray, "*batch n m"] | Float[np.ndarray, "*batch n m"]) -> NormBound:
    """Return an upper bound of the largest spectral norm among matrices: by SVD, or by Gram iteration for large ones.

    >>> largest_norm(np.diag([3.0, 4.0])).value
    4.0...
    """
    matrices = np.asarray(matrices, np.complex128 if np.iscomplexobj(matrices) else np.float64)
    if not np.isfinite(matrices).all():
        return NormBound(float("inf"), False, "values that are not finite")
    if min(matrices.shape[-2:]) <= GRAM_ABOVE or matrices.size == matrices.shape[-1] * matrices.shape[-2]:
        values = np.linalg.svd(matrices, compute_uv=False)
        return NormBound(float(values.max(initial=0.0)) * SLACK, True, "SVD")
    return NormBound(float(gram_bound(matrices).max()), False, "Gram iteration")


def gram_bound(
    matrices: Complex[np.ndarray, "*batch n m"] | Float[np.ndarray, "*batch n m"], *, iterations: int = 6
) -> Float[np.ndarray | np.float64, "*batch"]:
    """Return upper bounds of spectral norms: ‖W‖ ≤ ‖(WWᴴ)^(2^(t−1))‖_F^(1/2^t), rescaled so that nothing overflows.

    After t iterations they exceed the norm by at most the factor min(n, m)^(1/2^(t+1)): 5 % for 512 rows and six.

    Reference: Delattre et al., "Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration",
    arXiv:2305.16173.

    >>> gram_bound(np.diag([3.0, 4.0])).round(6)
    np.float64(4.0)
    """
    w = np.asarray(matrices, np.complex128 if np.iscomplexobj(matrices) else np.float64)
    if w.shape[-2] > w.shape[-1]:
        w = np.swapaxes(w, -1, -2)
    scale = np.abs(w).max((-2, -1), initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    log, gram = np.log(scale), w / scale[..., None, None]
    for step in range(iterations):
        size = np.linalg.norm(gram, axis=(-2, -1))
        size = np.where(size > 0, size, 1.0)
        log = log + np.log(size) / 2**step
        gram = gram / size[..., None, None]
        gram = gram @ np.conj(np.swapaxes(gram, -1, -2))
    size = np.linalg.norm(gram, axis=(-2, -1))
    with np.errstate(divide="ignore"):
        return np.exp(log + np.log(size) / 2**iterations) * SLACK


def power_iteration(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, key: PRNGKey, *, steps: int = 30
) -> Float[jax.Array, ""]:
    """Return a lower bound of ‖J‖₂, J the Jacobian of any function at ``x``; J is never formed.

    It multiplies by Jᵀ and J. Both come from reverse mode: the pull-back is linear, and its own pull-back is J. So a
    function needs no derivative in forward mode; if reverse mode cannot be applied twice, forward mode is used.

    The value is ‖Jv‖ for a unit vector v, so it is at most ‖J‖ after any number of steps.

    >>> round(float(power_iteration(lambda x: jnp.array([3.0, 4.0]) * x, jnp.zeros(2), jax.random.key(0))), 4)
    4.0
    """
    y, pull = jax.vjp(function, x)

    def push(v):
        return jax.vjp(pull, jnp.zeros_like(y))[1]((v,))[0]

    try:
        jax.eval_shape(push, x)
    except (TypeError, NotImplementedError):  # a part of the pull-back cannot be differentiated

        def push(v):
            return jax.jvp(function, (x,), (v,))[1]

    def unit(v):
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    def adjoint(u):  # JAX pulls back with the transpose; conjugation turns it into the adjoint of a complex map
        return jnp.conj(pull(jnp.conj(u))[0])

    v = unit(jax.random.normal(key, x.shape, x.dtype))
    v = jax.lax.fori_loop(0, steps, lambda _, v: unit(adjoint(push(v))), v)
    return jnp.linalg.norm(push(v))
