"""Exactly orthogonal convolutions, built frequency by frequency.

A circular convolution acts on each frequency by one c×c matrix. The layer makes each of these unitary:

    kernel k×k×c×c (real)  →  Ŵ(f) = Σ_t kernel[t]·e^{−2πi f·t}  →  A(f) = ½(Ŵ − Ŵᴴ)  →  U(f) = exp A(f)

so the whole map is orthogonal, for any height and width, and the same kernel serves every resolution. A real kernel
gives U(−f) = conj U(f) for free, which is what makes the output real. Kernels larger than the map wrap around.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float

from jaxiqa.checks import check_choice, check_number
from jaxiqa.layers.unitary import HIGHEST, METHODS, semi_orthogonal, to_unitary

CHUNK_BYTES = 64 * 2**20
"""Unitary matrices held at once; more frequencies than fit are worked through in chunks."""

Spectrum = Complex[Array, "b h f c"]


def phases(kernel_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """e^{−2πi(f₁t₁/h + f₂t₂/w)}: rows are the rfft2 frequencies of an h×w map, columns a centred kernel's taps."""
    (kh, kw), (h, w) = kernel_size, size
    rows, columns = np.arange(kh) - kh // 2, np.arange(kw) - kw // 2
    vertical = np.outer(np.arange(h), rows) % h / h
    horizontal = np.outer(np.arange(w // 2 + 1), columns) % w / w
    turns = vertical[:, None, :, None] + horizontal[None, :, None, :]
    return np.exp(-2j * np.pi * turns).reshape(h * (w // 2 + 1), kh * kw).astype(np.complex64)


def unitary_spectrum(
    kernel: Float[Array, "kh kw c c"], size: tuple[int, int], *, method: str = "expm"
) -> Complex[Array, "f c c"]:
    """The unitary matrices of all rfft2 frequencies of an h×w map, row by row: ``f = h·(w//2 + 1)``.

    Memory: 8·f·c² bytes.

    >>> unitary_spectrum(jnp.zeros((3, 3, 2, 2)), (4, 5)).shape
    (12, 2, 2)
    """
    return _build(kernel, jnp.asarray(phases(kernel.shape[:2], size)), method)


def _build(kernel: Array, phase: Array, method: str) -> Array:
    taps = kernel.reshape(-1, *kernel.shape[2:]).astype(jnp.complex64)
    return to_unitary(jnp.einsum("ft,tab->fab", phase, taps, precision=HIGHEST), method)


def orthogonal_convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c c"],
    *,
    method: str = "expm",
    between: Callable[[Spectrum], Spectrum] | None = None,
) -> Float[Array, "b h w c"]:
    """Circular convolution by the orthogonal map that ``kernel`` generates: ‖y‖ = ‖x‖.

    Args:
        x: feature maps of any size.
        kernel: real, any size.
        method: how a skew-Hermitian matrix becomes unitary; see `jaxiqa.layers.unitary.to_unitary`.
        between: applied to the coefficients (orthonormal Fourier transform) after the unitary matrices.

    Memory: beside the coefficients, the unitary matrices of as many frequencies as fit in `CHUNK_BYTES`, a few
    times over; a backward pass builds them again instead of keeping them.

    >>> x = jnp.arange(2.0 * 3 * 5 * 2).reshape(2, 3, 5, 2)
    >>> y = orthogonal_convolve(x, jax.random.normal(jax.random.key(0), (3, 3, 2, 2)))
    >>> bool(jnp.allclose(jnp.linalg.norm(y), jnp.linalg.norm(x)))
    True
    """
    b, h, w, c = x.shape
    if kernel.shape[2:] != (c, c):
        raise ValueError(f"kernel has shape {kernel.shape}; expected kh kw {c} {c} for maps of {c} channels")
    frequencies = h * (w // 2 + 1)
    coefficients = jnp.fft.rfft2(x, axes=(1, 2), norm="ortho").reshape(b, frequencies, c).swapaxes(0, 1)
    phase = phases(kernel.shape[:2], (h, w))

    @jax.checkpoint
    def apply(chunk: tuple[Array, Array]) -> Array:
        return jnp.einsum("fbi,foi->fbo", chunk[1], _build(kernel, chunk[0], method), precision=HIGHEST)

    chunk = max(1, CHUNK_BYTES // (8 * c * c))
    if frequencies <= chunk:
        result = apply((jnp.asarray(phase), coefficients))
    else:
        count = -(-frequencies // chunk)
        chunk = -(-frequencies // count)
        padding = count * chunk - frequencies
        phase = jnp.asarray(np.pad(phase, ((0, padding), (0, 0)))).reshape(count, chunk, -1)
        blocks = jnp.pad(coefficients, ((0, padding), (0, 0), (0, 0))).reshape(count, chunk, b, c)
        result = jax.lax.map(apply, (phase, blocks)).reshape(count * chunk, b, c)[:frequencies]
    result = result.swapaxes(0, 1).reshape(b, h, w // 2 + 1, c)
    return jnp.fft.irfft2(between(result) if between else result, s=(h, w), axes=(1, 2), norm="ortho")


class SemiOrthogonal(nnx.Module):
    """A learned 1×1 map from ``cin`` to ``cout`` channels with orthonormal columns or rows.

    cin ≤ cout: an isometry, ‖y‖ = ‖x‖. cin > cout: a co-isometry; its adjoint preserves the norm, and ‖y‖ ≤ ‖x‖.

    >>> layer = SemiOrthogonal(3, 5, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 2, 2, 3))).shape
    (1, 2, 2, 5)
    """

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs):
        check_number("cin", cin, 1)
        check_number("cout", cout, 1)
        # VᵀV ≈ I at this scale: no output channel starts near a copy of an input channel.
        scale = 1 / np.sqrt(max(abs(cout - cin), 1))
        self.weight = nnx.Param(scale * jax.random.normal(rngs.params(), (cout, cin)))

    def __call__(self, x: Float[Array, "*b cin"]) -> Float[Array, "*b cout"]:
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"x has {x.shape[-1]} channels; this layer takes {self.weight.shape[1]}")
        return jnp.einsum("...i,oi->...o", x, semi_orthogonal(self.weight[...]), precision=HIGHEST)


class OrthogonalConv(nnx.Module):
    """Orthogonal circular convolution ``b h w cin → b h w cout``, plus a bias.

    cin = cout: orthogonal. cin < cout: an isometry, ‖Mx‖ = ‖x‖: every input's norm is preserved. cin > cout: a
    co-isometry, ‖Mᵀy‖ = ‖y‖: the adjoint preserves norms, and ‖Mx‖ ≤ ‖x‖. Unequal widths compose the square layer
    on min(cin, cout) channels with a `SemiOrthogonal` 1×1 map, so that the unitary matrices stay small.

    Args:
        cin, cout: channels.
        kernel_size: taps (height, width) of the generating kernel; the orthogonal map itself reaches further.
        unitary: ``"expm"`` or ``"cayley"``.
        use_bias: add one learned number per output channel.
        rngs: random numbers for the weights. The kernel starts at ‖A(f)‖₂ ≈ 1.

    >>> layer = OrthogonalConv(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(1), (1, 7, 10, 4))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True

    Reference: arXiv:2506.04951 (the block), arXiv:2104.07167 (Fourier-domain orthogonal convolutions).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        *,
        kernel_size: tuple[int, int] = (3, 3),
        unitary: str = "expm",
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        check_choice("unitary", unitary, METHODS)
        c = min(cin, cout)
        check_number("min(cin, cout)", c, 1)
        check_number("min(kernel_size)", min(kernel_size), 1)
        scale = 1 / np.sqrt(2 * c * kernel_size[0] * kernel_size[1])
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (*kernel_size, c, c)))
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None
        self.mix = SemiOrthogonal(cin, cout, rngs=rngs) if cin != cout else None
        self.cin, self.cout, self.unitary = cin, cout, unitary

    def __call__(
        self, x: Float[Array, "b h w cin"], *, between: Callable[[Spectrum], Spectrum] | None = None
    ) -> Float[Array, "b h w cout"]:
        if self.cin > self.cout:
            x = self.mix(x)
        x = orthogonal_convolve(x, self.kernel[...], method=self.unitary, between=between)
        if self.cin < self.cout:
            x = self.mix(x)
        return x if self.bias is None else x + self.bias[...]
