"""Exactly orthogonal convolutions, built frequency by frequency.

A circular convolution acts on each frequency by one c×c matrix. The layer makes each of these unitary:

    kernel k×k (real)  →  Ŵ(f) = Σ_t kernel[t]·e^{−2πi f·t}  →  U(f)

so the whole map is orthogonal, for any height and width, and the same kernel serves every resolution. A real kernel
gives U(−f) = conj U(f) for free, which is what makes the output real. Kernels larger than the map wrap around.

With F = h·(w//2 + 1) frequencies, c channels in g groups, b images, in real multiply-adds (build; apply):

| unitary        | U(f)                         | build           | apply      |
|----------------|------------------------------|-----------------|------------|
| ``expm``       | exp ½(Ŵ − Ŵᴴ)                | ≈ 21·F·c³/g²    | 4·F·c²·b/g |
| ``cayley``     | (I + A)⁻¹(I − A)             | ≈ 11·F·c³/g²    | 4·F·c²·b/g |
| ``reflection`` | I − 2V(VᴴV)⁻¹Vᴴ, Ŵ = V: c×r  | ≈ 16·F·c·r²     | 8·F·c·r·b  |

``band`` < 1 builds matrices for the low frequencies only, about band²·F of them, and leaves the others alone.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.variables import Constant, constant
from jaxiqa.layers.fourier import (
    Between,
    Coefficients,
    low_frequencies,
    phases,
    response,
    through_frequencies,
)
from jaxiqa.layers.linear_algebra import HIGHEST, full, in_chunks, random_orthogonal
from jaxiqa.layers.orthogonal_dense import OrthogonalDense, dense
from jaxiqa.layers.reflection import orthonormal_basis, reflect
from jaxiqa.layers.resampling import space_to_depth
from jaxiqa.layers.unitary import to_unitary

CHUNK_BYTES = 64 * 2**20
"""Unitary matrices held at once; more frequencies than fit are worked through in chunks."""

BUILDERS = {
    "expm": lambda w: to_unitary(w, "auto"),
    "cayley": lambda w: to_unitary(w, "cayley"),
    "reflection": orthonormal_basis,
}
"""Name of a unitary map -> Ŵ to U, or, for reflections, to the basis Q of I − 2QQᴴ."""


# Compiled under these names, by which `jaxiqa.lipschitz` knows them in a traced program.
@jax.jit
def multiply_dense(matrices: Complex[Array, "k g n m"], z: Coefficients, low: Array | None = None) -> Coefficients:
    """U(f) times the coefficients; those outside the positions ``low`` pass unchanged."""
    return _within(low, z, lambda z: jnp.einsum("fbgi,fgoi->fbgo", z, matrices, precision=HIGHEST))


@jax.jit
def multiply_reflection(basis: Complex[Array, "k g n m"], z: Coefficients, low: Array | None = None) -> Coefficients:
    """I − 2QQᴴ times the coefficients; those outside the positions ``low`` pass unchanged."""
    return _within(low, z, lambda z: reflect(z.swapaxes(1, 2), basis).swapaxes(1, 2))


MULTIPLIERS = {"expm": multiply_dense, "cayley": multiply_dense, "reflection": multiply_reflection}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """The unitary matrices of an orthogonal convolution for maps of one size; call it to convolve.

    Attributes:
        matrices: U(f), or Q(f) of U = I − 2QQᴴ, at the frequencies that have one; 8 bytes a number.
        size: (h, w) of the maps.
        unitary: a key of `BUILDERS`.
        band: share of the frequency range that has matrices.
    """

    matrices: Complex[Array, "f g m n"]
    size: tuple[int, int] = field(metadata={"static": True})
    unitary: str = field(metadata={"static": True})
    band: float = field(metadata={"static": True})

    def __call__(self, x: Float[Array, "b h w c"], *, between: Between | None = None) -> Float[Array, "b h w c"]:
        if x.shape[1:3] != self.size:
            raise ValueError(
                f"this layer was materialized for maps of {self.size[0]}x{self.size[1]} and was given one of "
                f"{x.shape[1]}x{x.shape[2]}: use score_fn(model, (h, w)) for them, or materialize the model again"
            )
        low = _low(self.size, self.band)
        return through_frequencies(
            x,
            lambda z: MULTIPLIERS[self.unitary](self.matrices, z, low),
            groups=self.matrices.shape[1],
            between=between,
        )


def unitary_spectrum(
    kernel: Float[Array, "kh kw c n"],
    size: tuple[int, int],
    *,
    unitary: str = "expm",
    groups: int = 1,
    band: float = 1.0,
) -> Spectrum:
    """The unitary matrices that ``kernel`` generates for maps of one size; arguments as in `orthogonal_convolve`.

    >>> unitary_spectrum(jnp.zeros((3, 3, 2, 2)), (4, 5)).matrices.shape
    (12, 1, 2, 2)
    """
    _check(kernel, kernel.shape[2], unitary, groups)
    phase = phases(kernel.shape[:2], size)
    low = _low(size, band)
    phase = jnp.asarray(phase if low is None else phase[low])
    return Spectrum(BUILDERS[unitary](response(kernel, phase, groups)), tuple(size), unitary, band)


def orthogonal_convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c n"],
    *,
    unitary: str = "expm",
    groups: int = 1,
    band: float = 1.0,
    between: Between | None = None,
) -> Float[Array, "b h w c"]:
    """Circular convolution by the orthogonal map that ``kernel`` generates: ‖y‖ = ‖x‖.

    Args:
        x: feature maps of any size.
        kernel: real, any height and width; n is c/groups, or the rank of a reflection.
        unitary: ``"expm"``, ``"cayley"`` or ``"reflection"``.
        groups: the channels are divided into this many parts that do not mix.
        band: share of the frequency range, per axis, that is acted on, in (0, 1]; higher frequencies pass unchanged.
        between: applied to the coefficients (orthonormal Fourier transform) after the unitary matrices.

    Memory: beside the coefficients, the unitary matrices of as many frequencies as fit in `CHUNK_BYTES`, a few
    times over. Where there are more, they are worked through in chunks, and a backward pass builds each again.

    >>> x = jnp.arange(2.0 * 3 * 5 * 2).reshape(2, 3, 5, 2)
    >>> y = orthogonal_convolve(x, jax.random.normal(jax.random.key(0), (3, 3, 2, 2)))
    >>> bool(jnp.allclose(jnp.linalg.norm(y), jnp.linalg.norm(x)))
    True
    """
    size, c = x.shape[1:3], x.shape[3]
    _check(kernel, c, unitary, groups)
    low = _low(size, band)
    phase = phases(kernel.shape[:2], size)
    phase = phase if low is None else phase[low]

    def apply(phase: Array, z: Coefficients) -> Coefficients:
        return MULTIPLIERS[unitary](BUILDERS[unitary](response(kernel, phase, groups)), z)

    chunk = max(1, CHUNK_BYTES // (8 * c * kernel.shape[-1]))
    if len(phase) > chunk:
        apply = jax.checkpoint(apply)
    return through_frequencies(
        x,
        lambda z: _within(low, z, lambda z: in_chunks(apply, (jnp.asarray(phase), z), chunk)),
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


def _within(low: Array | np.ndarray | None, z: Coefficients, function) -> Coefficients:
    return function(z) if low is None else z.at[low].set(function(z[low]))


class OrthogonalConv(nnx.Module):
    """Orthogonal circular convolution ``b h w cin → b h/s w/s cout``, plus a bias.

    With n = s²·cin, the numbers that come in per output pixel: n = cout is orthogonal. n < cout is an isometry,
    ‖Mx‖ = ‖x‖: every input's norm is preserved. n > cout is a co-isometry, ‖Mᵀy‖ = ‖y‖: the adjoint preserves
    norms, and ‖Mx‖ ≤ ‖x‖. Unequal widths compose the square layer on min(n, cout) channels with an `OrthogonalDense`
    1×1 map, so that the unitary matrices stay small.

    n = cout: a fixed random orthogonal matrix acts on the channels first. Exponentials and Cayley transforms have
    determinant +1 where a frequency is real, so without it half of all orthogonal maps would be out of reach; with
    ``groups`` it also is what mixes the groups. (Elsewhere the 1×1 map does both.)

    Args:
        cin, cout: channels.
        kernel_size: taps (height, width) of the generating kernel; the orthogonal map itself reaches further.
        stride: s; blocks of s×s pixels become channels first (`space_to_depth`).
        unitary: ``"expm"``, ``"cayley"``, or ``"reflection"`` with ``rank``; the module's docstring has their costs.
        rank: of the reflection, at most the channels of a group; half of them by default.
        groups: parts that the channels are divided into; costs fall by groups².
        band: share of the frequency range that is acted on, in (0, 1].
        use_bias: add one learned number per output channel.
        rngs: random numbers for the weights. The kernel starts at ‖A(f)‖₂ ≈ 1.

    >>> layer = OrthogonalConv(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(1), (1, 7, 10, 4))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True

    Reference: arXiv:2506.04951 (the block), arXiv:2104.07167 (Fourier-domain orthogonal convolutions),
    arXiv:2505.15174 (reflections of low rank).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        kernel_size: tuple[int, int] = (3, 3),
        stride: int = 1,
        unitary: str = "expm",
        rank: int | None = None,
        groups: int = 1,
        band: float = 1.0,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        check_choice("unitary", unitary, BUILDERS)
        check_number("stride", stride, 1)
        check_number("min(kernel_size)", min(kernel_size), 1)
        check_number("band", band, 0.0, 1.0, open_low=True)
        n = cin * stride**2
        c = min(n, cout)
        check_number("min(cin, cout)", c, 1)
        if groups < 1 or c % groups:
            raise ValueError(f"groups={groups} does not divide min(stride²·cin, cout) = {c} channels")
        columns = c // groups
        if unitary == "reflection":
            columns = max(columns // 2, 1) if rank is None else rank
            check_number("rank", columns, 1, c // groups)
        elif rank is not None:
            raise ValueError(f"rank={rank} is not allowed with unitary={unitary!r}; only a reflection has one")
        scale = 1 / np.sqrt(2 * (c // groups) * kernel_size[0] * kernel_size[1])
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (*kernel_size, c, columns)))
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None
        self.mix = OrthogonalDense(n, cout, rngs=rngs) if n != cout else None
        self.base = Constant(random_orthogonal(rngs.params(), c)) if n == cout else None
        self.cin, self.cout, self.stride = cin, cout, stride
        self.unitary, self.groups, self.band = unitary, groups, band

    def __call__(self, x: Float[Array, "b h w cin"], *, between: Between | None = None) -> Float[Array, "b h2 w2 cout"]:
        def convolve(x: Array) -> Array:
            options = {"unitary": self.unitary, "groups": self.groups, "band": self.band}
            return orthogonal_convolve(x, self.kernel[...], **options, between=between)

        return _around(x, self.stride, *self.maps(), convolve, self.bias)

    def maps(self) -> tuple[Array | None, Array | None]:
        """The 1×1 maps before and after the convolution."""
        if self.mix is None:
            return constant(self.base), None
        matrix = self.mix.matrix()
        return (matrix, None) if matrix.shape[0] < matrix.shape[1] else (None, matrix)

    def spectrum(self, size: tuple[int, int]) -> Spectrum:
        """The unitary matrices for input maps of this size."""
        if size[0] % self.stride or size[1] % self.stride:
            raise ValueError(f"a {size[0]}x{size[1]} map cannot be divided by stride={self.stride}")
        size = (size[0] // self.stride, size[1] // self.stride)
        return unitary_spectrum(self.kernel[...], size, unitary=self.unitary, groups=self.groups, band=self.band)


class MaterializedConv(nnx.Module):
    """An `OrthogonalConv` whose matrices have been built for one size; see `jaxiqa.layers.materialize`."""

    def __init__(self, layer: OrthogonalConv, size: tuple[int, int]):
        before, after = layer.maps()
        self.built = Constant(layer.spectrum(size))
        self.before = None if before is None else Constant(before)
        self.after = None if after is None else Constant(after)
        self.bias = None if layer.bias is None else Constant(layer.bias[...])
        self.stride = layer.stride

    def __call__(self, x: Float[Array, "b h w cin"], *, between: Between | None = None) -> Float[Array, "b h2 w2 cout"]:
        before, after = (None if map is None else map[...] for map in (self.before, self.after))
        spectrum = self.built.get_value()
        return _around(x, self.stride, before, after, lambda x: spectrum(x, between=between), self.bias)


def _around(x, stride, before, after, convolve, bias):
    x = space_to_depth(full(x), stride)
    x = x if before is None else dense(x, before)
    x = convolve(x)
    x = x if after is None else dense(x, after)
    return x if bias is None else x + bias[...]
