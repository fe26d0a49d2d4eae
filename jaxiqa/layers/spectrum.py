"""Exactly orthogonal convolutions, built frequency by frequency.

A circular convolution multiplies each frequency by one c×c matrix. The layer makes each of these unitary:

    kernel k×k (real)  →  Ŵ(f) = Σ_t kernel[t]·e^{−2πi f·t}  →  U(f)

so the whole map is orthogonal, for any height and width, and the same kernel fits every resolution. A real kernel
gives U(−f) = conj U(f) automatically, so the output is real. Kernels larger than the map wrap around.

With F = h·(w//2 + 1) frequencies, c channels in g groups, b images, in real multiply-adds (build; apply):

| unitary        | U(f)                         | build           | apply      |
|----------------|------------------------------|-----------------|------------|
| ``expm``       | exp ½(Ŵ − Ŵᴴ)                | ≈ 21·F·c³/g²    | 4·F·c²·b/g |
| ``cayley``     | (I + A)⁻¹(I − A)             | ≈ 11·F·c³/g²    | 4·F·c²·b/g |
| ``reflection`` | I − 2V(VᴴV)⁻¹Vᴴ, Ŵ = V: c×r  | ≈ 16·F·c·r²     | 8·F·c·r·b  |

``band`` < 1 builds matrices for the low frequencies only, about band²·F of them; the others pass unchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.precision import at_least_float32
from jaxiqa.core.pytrees import static
from jaxiqa.layers.fourier import (
    Between,
    Coefficients,
    low_frequencies,
    phases,
    response,
    through_frequencies,
)
from jaxiqa.layers.linear_algebra import HIGHEST, in_chunks
from jaxiqa.layers.reflection import orthonormal_basis, reflect
from jaxiqa.layers.unitary import to_unitary

CHUNK_BYTES = 64 * 2**20
"""Bytes of unitary matrices held at once; more frequencies are processed in chunks."""

BUILDERS = {
    "expm": lambda w: to_unitary(w, "auto"),
    "cayley": lambda w: to_unitary(w, "cayley"),
    "reflection": orthonormal_basis,
}
"""Name of a unitary map -> function from Ŵ to U, or, for reflections, to the basis Q of I − 2QQᴴ."""


# Compiled under these names, by which `jaxiqa.lipschitz` recognises them in a traced program.
@jax.jit
def multiply_dense(matrices: Complex[Array, "k g n m"], z: Coefficients, low: Array | None = None) -> Coefficients:
    """Multiply the coefficients by U(f); those outside the positions ``low`` pass unchanged."""
    return _within(low, z, lambda z: jnp.einsum("fbgi,fgoi->fbgo", z, matrices, precision=HIGHEST))


@jax.jit
def multiply_reflection(basis: Complex[Array, "k g n m"], z: Coefficients, low: Array | None = None) -> Coefficients:
    """Multiply the coefficients by I − 2QQᴴ; those outside the positions ``low`` pass unchanged."""
    return _within(low, z, lambda z: reflect(z.swapaxes(1, 2), basis).swapaxes(1, 2))


MULTIPLIERS = {"expm": multiply_dense, "cayley": multiply_dense, "reflection": multiply_reflection}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """The unitary matrices of an orthogonal convolution for maps of one size; call it to convolve.

    Attributes:
        matrices: U(f), or Q(f) of U = I − 2QQᴴ, at the frequencies with a matrix; 8 bytes per number, or 16 for a
            float64 kernel. (Its type is not checked: JAX replaces leaves by placeholders, such as axes.)
        size: (h, w) of the maps.
        unitary: a key of `BUILDERS`.
        band: share of the frequency range that has matrices.
    """

    matrices: Any
    size: tuple[int, int] = static()
    unitary: str = static()
    band: float = static()

    def __call__(self, x: Float[Array, "b h w c"], *, between: Between | None = None) -> Float[Array, "b h w c"]:
        if x.shape[1:3] != self.size:
            raise ValueError(
                f"this layer was materialized for maps of {self.size[0]}x{self.size[1]} and was given one of "
                f"{x.shape[1]}x{x.shape[2]}: use score_fn(model, (h, w)) for them, or materialize the model again"
            )
        low = _low(self.size, self.band)
        x = x.astype(jnp.promote_types(x.dtype, self.matrices.real.dtype))
        return through_frequencies(
            x,
            lambda z: MULTIPLIERS[self.unitary](self.matrices, z, low),
            groups=self.matrices.shape[1],
            between=between,
        )


@at_least_float32
def unitary_spectrum(
    kernel: Float[Array, "kh kw c n"],
    size: tuple[int, int],
    *,
    unitary: str = "expm",
    groups: int = 1,
    band: float = 1.0,
) -> Spectrum:
    """Return the unitary matrices that ``kernel`` generates for one map size; arguments as in `orthogonal_convolve`.

    >>> unitary_spectrum(jnp.zeros((3, 3, 2, 2)), (4, 5)).matrices.shape
    (12, 1, 2, 2)
    """
    _check(kernel, kernel.shape[2], unitary, groups)
    phase = phases((kernel.shape[0], kernel.shape[1]), size)
    low = _low(size, band)
    phase = phase if low is None else phase[low]
    return Spectrum(BUILDERS[unitary](response(kernel, phase, groups)), (size[0], size[1]), unitary, band)


@at_least_float32
def orthogonal_convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c n"],
    *,
    unitary: str = "expm",
    groups: int = 1,
    band: float = 1.0,
    between: Between | None = None,
) -> Float[Array, "b h w c"]:
    """Convolve circularly by the orthogonal map that ``kernel`` generates: ‖y‖ = ‖x‖.

    Args:
        x: feature maps of any size.
        kernel: real, any height and width; n is c/groups, or the rank of a reflection.
        unitary: ``"expm"``, ``"cayley"`` or ``"reflection"``.
        groups: number of channel groups, which do not mix.
        band: share of the frequency range, per axis, that is changed, in (0, 1]; higher frequencies pass unchanged.
        between: applied to the coefficients (orthonormal Fourier transform) after the unitary matrices.

    Memory: besides the coefficients, a few times the unitary matrices of as many frequencies as fit in `CHUNK_BYTES`.
    More frequencies are processed in chunks, and a backward pass builds each chunk again.

    >>> x = jnp.arange(2.0 * 3 * 5 * 2).reshape(2, 3, 5, 2)
    >>> y = orthogonal_convolve(x, jax.random.normal(jax.random.key(0), (3, 3, 2, 2)))
    >>> bool(jnp.allclose(jnp.linalg.norm(y), jnp.linalg.norm(x)))
    True
    """
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    size, c = (x.shape[1], x.shape[2]), x.shape[3]
    _check(kernel, c, unitary, groups)
    low = _low(size, band)
    table = phases((kernel.shape[0], kernel.shape[1]), size)
    phase = jnp.asarray(table if low is None else table[low], jnp.promote_types(dtype, jnp.complex64))

    def apply(phase: Array, z: Coefficients) -> Coefficients:
        return MULTIPLIERS[unitary](BUILDERS[unitary](response(kernel, phase, groups)), z)

    chunk = max(1, CHUNK_BYTES // (phase.dtype.itemsize * c * kernel.shape[-1]))
    if len(phase) > chunk:
        apply = jax.checkpoint(apply)
    return through_frequencies(
        x,
        lambda z: _within(low, z, lambda z: in_chunks(apply, (phase, z), chunk)),
        groups=groups,
        between=between,
    )


def _check(kernel: Array, channels: int, unitary: str, groups: int) -> None:
    check_choice("unitary", unitary, BUILDERS)
    if channels % groups:
        raise ValueError(f"groups={groups} does not divide {channels} channels")
    member = channels // groups
    fits = kernel.shape[-1] <= member if unitary == "reflection" else kernel.shape[-1] == member
    if kernel.ndim != 4 or kernel.shape[2] != channels or not fits:
        expected = f"kh kw {channels} {'rank' if unitary == 'reflection' else member}"
        raise ValueError(f"kernel has shape {kernel.shape}; expected {expected} for maps of {channels} channels")


def _low(size: tuple[int, int], band: float) -> np.ndarray | None:
    check_number("band", band, 0.0, 1.0, open_low=True)
    return None if band == 1 else low_frequencies(size, band)


def positions(size: tuple[int, int], band: float) -> Int[np.ndarray, " f"]:
    """Return the positions, among the rfft2 frequencies of an h×w map, that have matrices.

    >>> positions((2, 2), 1.0).tolist()
    [0, 1, 2, 3]
    """
    low = _low(size, band)
    return np.arange(size[0] * (size[1] // 2 + 1)) if low is None else low


def _within(low: Array | np.ndarray | None, z: Coefficients, function: Callable[[Any], Any]) -> Coefficients:
    return function(z) if low is None else z.at[low].set(function(z[low]))
