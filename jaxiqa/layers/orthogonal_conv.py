"""The orthogonal convolution as a layer: `jaxiqa.layers.spectrum` with any widths, strides and biases."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.variables import Constant, constant
from jaxiqa.layers.fourier import Between
from jaxiqa.layers.linear_algebra import full, random_orthogonal
from jaxiqa.layers.orthogonal_dense import OrthogonalDense, dense
from jaxiqa.layers.resampling import space_to_depth
from jaxiqa.layers.spectrum import BUILDERS, Spectrum, orthogonal_convolve, unitary_spectrum


class OrthogonalConv(nnx.Module):
    """Orthogonal circular convolution ``b h w cin → b h/s w/s cout``, plus a bias.

    Let n = s²·cin be the input numbers per output pixel. n = cout: the map is orthogonal. n < cout: an isometry,
    ‖Mx‖ = ‖x‖: every input's norm is preserved. n > cout: a co-isometry, ‖Mᵀy‖ = ‖y‖: the adjoint preserves norms,
    and ‖Mx‖ ≤ ‖x‖. Unequal widths compose the square layer on min(n, cout) channels with an `OrthogonalDense` 1×1
    map, so that the unitary matrices stay small.

    n = cout: a fixed random orthogonal matrix acts on the channels first. Exponentials and Cayley transforms have
    determinant +1 at real frequencies, so without it half of all orthogonal maps could not be reached. With ``groups``
    it also mixes the groups. (For n ≠ cout the 1×1 map does both.)

    Args:
        cin, cout: channels.
        kernel_size: taps (height, width) of the generating kernel; the orthogonal map itself is larger.
        stride: s; blocks of s×s pixels become channels first (`space_to_depth`).
        unitary: ``"expm"``, ``"cayley"``, or ``"reflection"`` with ``rank``; for costs see `jaxiqa.layers.spectrum`.
        rank: of the reflection, at most the channels of a group; by default half of them.
        groups: number of channel groups; costs fall by groups².
        band: share of the frequency range that is changed, in (0, 1].
        use_bias: add one learned number per output channel.
        rngs: random numbers for the weights. The kernel starts at ‖A(f)‖₂ ≈ 1.

    >>> layer = OrthogonalConv(4, 4, use_bias=False, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(1), (1, 7, 10, 4))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True

    Reference: Meleshin et al., "Robustness as Architecture: Designing IQA Models to Withstand Adversarial
    Perturbations", arXiv:2506.04951 (the block); Trockman and Kolter, "Orthogonalizing Convolutional Layers with the
    Cayley Transform", arXiv:2104.07167 (Fourier-domain orthogonal convolutions); Lai et al., "Enhancing Certified
    Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss", arXiv:2505.15174 (reflections of low
    rank).
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
            return orthogonal_convolve(
                x, self.kernel[...], unitary=self.unitary, groups=self.groups, band=self.band, between=between
            )

        return around(x, self.stride, *self.maps(), convolve, self.bias)

    def maps(self) -> tuple[Array | None, Array | None]:
        """Return the 1×1 maps before and after the convolution."""
        if self.mix is None:
            assert self.base is not None  # one of the two is
            return constant(self.base), None
        matrix = self.mix.matrix()
        return (matrix, None) if matrix.shape[0] < matrix.shape[1] else (None, matrix)

    def spectrum(self, size: tuple[int, int]) -> Spectrum:
        """Return the unitary matrices for input maps of this size."""
        if size[0] % self.stride or size[1] % self.stride:
            raise ValueError(f"a {size[0]}x{size[1]} map cannot be divided by stride={self.stride}")
        size = (size[0] // self.stride, size[1] // self.stride)
        return unitary_spectrum(self.kernel[...], size, unitary=self.unitary, groups=self.groups, band=self.band)


class MaterializedConv(nnx.Module):
    """An `OrthogonalConv` with its matrices computed for one size; see `jaxiqa.layers.materialize`."""

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
        return around(x, self.stride, before, after, lambda x: spectrum(x, between=between), self.bias)


def around(x, stride, before, after, convolve, bias):
    """Return ``after(convolve(before(x)))`` plus the bias, with s×s pixels as channels first."""
    x = space_to_depth(full(x), stride)
    x = x if before is None else dense(x, before)
    x = convolve(x)
    x = x if after is None else dense(x, after)
    return x if bias is None else x + bias[...]
