"""Layers whose trained parameter is the orthogonal matrix itself, for optimisers that keep it orthogonal.

`jaxiqa.train.manifold.on_manifold` makes any optimiser such a one. A parameter named ``orthogonal_matrix`` is one, one
named ``unitary_matrices`` the real and imaginary parts of unitary matrices. Any other optimiser breaks the bound.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Complex, Float, Int

from jaxiqa.core.checks import check_number
from jaxiqa.core.variables import constant
from jaxiqa.layers.fourier import Between
from jaxiqa.layers.linear_algebra import full, random_orthogonal
from jaxiqa.layers.orthogonal_conv import OrthogonalConv, around
from jaxiqa.layers.orthogonal_dense import OrthogonalDense, dense
from jaxiqa.layers.spectrum import Spectrum, positions


class DirectDense(nnx.Module):
    """``… cin → … cout`` by a trained matrix with orthonormal columns or rows.

    cin = cout: orthogonal. cin < cout: an isometry, ‖y‖ = ‖x‖. cin > cout: a co-isometry, ‖y‖ ≤ ‖x‖.

    Args:
        cin, cout: sizes of the last axis.
        use_bias: add one learned number per output.
        start: ``cout cin``, the matrix before training, orthonormal; None: uniformly random.
        rngs: random numbers for the matrix.

    Raises:
        ValueError: a size below 1, or ``start`` has another shape or is not orthonormal.

    >>> layer = DirectDense(3, 5, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((2, 7, 3))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True
    """

    def __init__(self, cin: int, cout: int, *, use_bias: bool = False, start: np.ndarray | None = None, rngs: nnx.Rngs):
        check_number("cin", cin, 1)
        check_number("cout", cout, 1)
        if start is None:
            matrix = random_orthogonal(rngs.params(), max(cin, cout))[:cout, :cin]
        else:
            _check_orthonormal(start, (cout, cin))
            matrix = jnp.asarray(start, jnp.float32)
        self.orthogonal_matrix = nnx.Param(matrix)
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None

    @classmethod
    def of(cls, layer: OrthogonalDense) -> "DirectDense":
        """Return the same map as ``layer``, with its matrix as the parameter."""
        matrix = layer.matrix()
        found = nnx.eval_shape(lambda: cls(*matrix.shape[::-1], use_bias=layer.bias is not None, rngs=nnx.Rngs(0)))
        found.orthogonal_matrix = nnx.Param(matrix)
        found.bias = None if layer.bias is None else nnx.Param(layer.bias[...])
        return found

    def __call__(self, x: Float[Array, "*b cin"]) -> Float[Array, "*b cout"]:
        return dense(x, full(self.orthogonal_matrix[...]), self.bias)


def _check_orthonormal(start: np.ndarray, shape: tuple[int, int]) -> None:
    if np.shape(start) != shape:
        raise ValueError(f"start has the shape {np.shape(start)}; expected (cout, cin) = {shape}")
    tall = start if shape[0] >= shape[1] else start.T
    error = np.abs(tall.T @ tall - np.eye(min(shape))).max()
    if not error <= 1e-5:  # also NaN
        raise ValueError(f"start is not orthonormal: its largest error is {error:.1e}; expected at most 1e-5")


class DirectConv(nnx.Module):
    """An `OrthogonalConv` for maps of one size, whose parameters are its unitary matrices, one per frequency.

    A training step builds no exponential. In exchange there are h·(w//2 + 1)·c² complex numbers instead of k²·c² real
    ones, and a map of another size is an error: the matrices of one size define no orthogonal map of another.

    Args:
        layer: where to start from; its options (stride, groups, band) are kept. It cannot be a reflection.
        size: (height, width) of the input.

    Raises:
        ValueError: a reflection, or a size that the stride does not divide.

    >>> layer = OrthogonalConv(4, 4, rngs=nnx.Rngs(0))
    >>> x = jax.random.normal(jax.random.key(1), (1, 6, 7, 4))
    >>> bool(jnp.allclose(DirectConv(layer, (6, 7))(x), layer(x), atol=1e-6))
    True
    """

    def __init__(self, layer: OrthogonalConv, size: tuple[int, int]):
        if layer.unitary == "reflection":
            raise ValueError("unitary='reflection' stores no unitary matrices; expected 'expm' or 'cayley'")
        built = layer.spectrum(size)
        self.unitary_matrices = nnx.Param(jnp.stack([built.matrices.real, built.matrices.imag]))
        self.size, self.band, self.stride = built.size, built.band, layer.stride
        self.mix = None if layer.mix is None else DirectDense.of(layer.mix)
        self.base = layer.base
        self.bias = None if layer.bias is None else nnx.Param(layer.bias[...])

    def __call__(self, x: Float[Array, "b h w cin"], *, between: Between | None = None) -> Float[Array, "b h2 w2 cout"]:
        matrices = completed(jax.lax.complex(*full(self.unitary_matrices[...])), self.size, self.band)
        spectrum = Spectrum(matrices, self.size, "expm", self.band)
        return around(x, self.stride, *self.maps(), lambda x: spectrum(x, between=between), self.bias)

    def maps(self) -> tuple[Array | None, Array | None]:
        """Return the 1×1 maps before and after the convolution."""
        if self.mix is None:
            assert self.base is not None  # one of the two is
            return constant(self.base), None
        matrix = full(self.mix.orthogonal_matrix[...])
        return (matrix, None) if matrix.shape[0] < matrix.shape[1] else (None, matrix)


def completed(z: Complex[Array, "f g n m"], size: tuple[int, int], band: float) -> Complex[Array, "f g n m"]:
    """Return the matrices with every second one of a conjugate pair computed from the first, and real ones real.

    A real map has U(−f) = conj U(f). Half a spectrum contains f and −f for horizontal frequency 0 and, at even widths,
    the highest one: there only the first is a parameter. Where −f = f the matrix is real.
    """
    here, there = conjugates(size, band)
    alone = here[here == there]
    here, there = here[here < there], there[here < there]
    own = np.ones((len(z), 1, 1, 1), bool)
    own[there] = False
    own_imaginary = own.copy()
    own_imaginary[alone] = False
    z = jax.lax.complex(jnp.where(own, z.real, 0), jnp.where(own_imaginary, z.imag, 0))
    # Added to zeros, not set: the derivative of a sum needs no copy of all matrices.
    return z.at[there].add(jnp.conj(z[here]), unique_indices=True)


def conjugates(size: tuple[int, int], band: float = 1.0) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return, among the stored frequencies of h×w maps, the positions whose conjugates are stored too, and theirs.

    >>> [found.tolist() for found in conjugates((3, 2))]
    [[0, 1, 2, 3, 4, 5], [0, 1, 4, 5, 2, 3]]
    """
    h, w = size
    stored = positions(size, band)
    row, column = np.divmod(stored, w // 2 + 1)
    here = np.flatnonzero((column == 0) | (2 * column == w))
    twin = -row[here] % h * (w // 2 + 1) + column[here]
    return here, np.searchsorted(stored, twin)
