"""A layer whose matrix has orthonormal columns or rows."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.variables import Constant, constant
from jaxiqa.layers.linear_algebra import HIGHEST, full, product, random_orthogonal
from jaxiqa.layers.unitary import semi_orthogonal


class OrthogonalDense(nnx.Module):
    """``… cin → … cout`` by a learned matrix with orthonormal columns or rows.

    cin = cout: orthogonal. cin < cout: an isometry, ‖y‖ = ‖x‖. cin > cout: a co-isometry; its adjoint preserves the
    norm, and ‖y‖ ≤ ‖x‖. The matrix is from `semi_orthogonal`, which for cin = cout only gives determinant +1: there it
    is multiplied by a fixed random orthogonal matrix, so that a layer starts in either component of O(c).

    Args:
        cin, cout: sizes of the last axis.
        use_bias: add one learned number per output.
        rngs: random numbers for the weights.

    >>> layer = OrthogonalDense(3, 5, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((2, 7, 3))
    >>> bool(jnp.allclose(jnp.linalg.norm(layer(x)), jnp.linalg.norm(x)))
    True
    """

    def __init__(self, cin: int, cout: int, *, use_bias: bool = False, rngs: nnx.Rngs):
        check_number("cin", cin, 1)
        check_number("cout", cout, 1)
        # VᵀV ≈ I at this scale: no output channel starts near a copy of an input channel.
        scale = 1 / np.sqrt(max(abs(cout - cin), 1))
        self.weight = nnx.Param(scale * jax.random.normal(rngs.params(), (cout, cin)))
        self.base = Constant(random_orthogonal(rngs.params(), cin)) if cin == cout else None
        self.bias = nnx.Param(jnp.zeros(cout)) if use_bias else None

    def matrix(self) -> Float[Array, "cout cin"]:
        """Return the matrix."""
        q = semi_orthogonal(full(self.weight[...]))
        return q if self.base is None else product(q, constant(self.base))

    def __call__(self, x: Float[Array, "*b cin"]) -> Float[Array, "*b cout"]:
        return dense(x, self.matrix(), self.bias)


class MaterializedDense(nnx.Module):
    """An `OrthogonalDense` with its matrix computed; see `jaxiqa.layers.materialize`."""

    def __init__(self, layer: OrthogonalDense):
        self.built = Constant(layer.matrix())
        self.bias = None if layer.bias is None else Constant(layer.bias[...])

    def __call__(self, x: Float[Array, "*b cin"]) -> Float[Array, "*b cout"]:
        return dense(x, self.built[...], self.bias)


def dense(x: Float[Array, "*b cin"], matrix: Float[Array, "cout _"], bias: nnx.Variable | None = None) -> Array:
    """Return ``Mx + bias`` along the last axis, at full precision."""
    if x.shape[-1] != matrix.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} channels; this layer takes {matrix.shape[1]}")
    y = jnp.einsum("...i,oi->...o", full(x), matrix, precision=HIGHEST)
    return y if bias is None else y + bias[...]
