"""Circular convolutions frequency by frequency: a kernel's matrices, and operations between two transforms."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import HIGHEST

Coefficients = Complex[Array, "f b g c"]
"""Orthonormal rfft2 coefficients: frequency (row by row), image, group, channel of the group."""

Between = Callable[[Complex[Array, "b h f c"]], Complex[Array, "b h f c"]]


def phases(kernel_size: tuple[int, int], size: tuple[int, int]) -> Complex[np.ndarray, "f taps"]:
    """Return e^{−2πi(f₁t₁/h + f₂t₂/w)}: rows are rfft2 frequencies of an h×w map, columns a centred kernel's taps."""
    (kh, kw), (h, w) = kernel_size, size
    rows, columns = np.arange(kh) - kh // 2, np.arange(kw) - kw // 2
    vertical = np.outer(np.arange(h), rows) % h / h
    horizontal = np.outer(np.arange(w // 2 + 1), columns) % w / w
    turns = vertical[:, None, :, None] + horizontal[None, :, None, :]
    return np.exp(-2j * np.pi * turns).reshape(h * (w // 2 + 1), kh * kw)


def low_frequencies(size: tuple[int, int], band: float) -> Int[np.ndarray, " n"]:
    """Return positions, among the rfft2 frequencies of an h×w map, of those with both parts ≤ ``band`` · the highest.

    >>> low_frequencies((4, 4), 0.5).tolist()  # rows of three: 0, 1 and 2 cycles per width
    [0, 1, 3, 4, 9, 10]
    """
    h, w = size
    rows, columns = np.abs(np.fft.fftfreq(h)), np.fft.rfftfreq(w)
    edge = band / 2 + 1e-9  # a frequency on the edge counts, despite rounding
    return np.flatnonzero((rows[:, None] <= edge) & (columns[None, :] <= edge))


def low_pass_mask(size: tuple[int, int], share: float) -> Float[np.ndarray, "h f"]:
    """Return 1 if both frequencies of an rfft2 coefficient are at most ``share`` of the highest, else 0.

    >>> low_pass_mask((4, 4), 0.5).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 0]]
    """
    mask = np.zeros(size[0] * (size[1] // 2 + 1), np.float32)
    mask[low_frequencies(size, share)] = 1
    return mask.reshape(size[0], -1)


def response(
    kernel: Float[Array, "kh kw c n"], phase: Complex[Array | np.ndarray, "f taps"], groups: int
) -> Complex[Array, "f g m n"]:
    """Return Ŵ(f) = Σ_t kernel[t]·e^{−2πi f·t} in the kernel's precision; groups divide the c rows."""
    taps = kernel.reshape(len(phase[0]), groups, -1, kernel.shape[-1])
    taps = taps.astype(jnp.promote_types(kernel.dtype, jnp.complex64))
    phase = jnp.asarray(phase, taps.dtype)
    return jnp.einsum("ft,tgmn->fgmn", phase, taps, precision=HIGHEST)


# Compiled under these names, by which `jaxiqa.lipschitz` recognises them. Both preserve norms if the operation between
# them treats a frequency and its conjugate alike.
@jax.jit
@at_least_float32
def to_frequencies(x: Float[Array, "b h w c"]) -> Complex[Array, "b h f c"]:
    """Compute the orthonormal transform of every channel, the half that a real map needs."""
    return jnp.fft.rfft2(x, axes=(1, 2), norm="ortho")


@partial(jax.jit, static_argnames="size")
def from_frequencies(z: Complex[Array, "b h f c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Compute the inverse of `to_frequencies`, for maps of this size."""
    return jnp.fft.irfft2(z, s=size, axes=(1, 2), norm="ortho")


def through_frequencies(
    x: Float[Array, "b h w c"],
    function: Callable[[Coefficients], Coefficients],
    *,
    groups: int = 1,
    between: Between | None = None,
) -> Float[Array, "b h w n"]:
    """Transform, apply ``function`` and then ``between`` to the coefficients, and transform back. Any h and w.

    ``function`` may change the number of channels per group.
    """
    b, h, w, c = x.shape
    z = to_frequencies(x).reshape(b, -1, groups, c // groups)
    z = function(z.swapaxes(0, 1)).swapaxes(0, 1).reshape(b, h, w // 2 + 1, -1)
    return from_frequencies(between(z) if between else z, (h, w))
