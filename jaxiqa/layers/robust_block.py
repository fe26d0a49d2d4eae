"""The RobustBlock: a narrow, norm-preserving bottleneck for the features of a network.

"Robustness as Architecture: Designing IQA Models to Withstand Adversarial Perturbations", arXiv:2506.04951.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Complex, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.layers.fourier import low_pass_mask
from jaxiqa.layers.orthogonal_conv import OrthogonalConv
from jaxiqa.layers.orthogonal_dense import OrthogonalDense
from jaxiqa.layers.pooling import square_pool
from jaxiqa.layers.shrinkage import inverse_softplus, soft_threshold
from jaxiqa.layers.spectrum import BUILDERS


class RobustBlock(nnx.Module):
    """``b h w features`` → (square) → reduce to ``mid`` channels → orthogonal convolution → back to ``features``.

    The second half, from ``mid`` to ``features``, is an isometry (`OrthogonalConv`): it neither amplifies nor loses
    anything. The first half reduces the channels: by an unconstrained 3×3 convolution, or by an orthogonal co-isometry,
    which makes the whole block 1-Lipschitz. Height and width change only with ``pool`` or ``padding="VALID"``.

    Args:
        features: input and output channels.
        mid: inner channels; at most ``features``.
        pool: ``"square"`` max-pools to a square first (`square_pool`, not 1-Lipschitz); never required.
        reduce: ``"conv"`` (3×3, bias, unconstrained) or ``"orthogonal"`` (1×1 co-isometry).
        unitary: ``"expm"``, ``"cayley"`` or ``"reflection"``; see `OrthogonalConv`.
        padding: of the 3×3 convolution, ``"SAME"`` or ``"VALID"``.
        shrink: if positive, Fourier coefficients are shrunk by a learned threshold per channel that starts at this
            value (orthonormal transform, units of the features): 1-Lipschitz, no longer an isometry.
        low_pass: keep only this share of the frequency range, per axis, in (0, 1]: 1-Lipschitz.
        rngs: random numbers for the weights.

    The paper's form is ``pool="square", padding="VALID", unitary="cayley"``.

    Memory: unitary matrices have ``mid`` channels, not ``features``, and exist for a chunk of frequencies at a time.
    Training with 1024 features, mid 200, on one 32×42 map needs 381 MB of temporaries (as reported by XLA, CPU).

    >>> block = RobustBlock(8, 4, rngs=nnx.Rngs(0))
    >>> block(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)

    **Differs from the paper**: its code divides the kernel by its norm over all frequencies, so that the map is a
    near-identity; loses a column if the width is odd; and leaves the block out of the optimiser.
    Here the kernel keeps its own scale, every size is exact, and the block is trained.
    """

    def __init__(
        self,
        features: int,
        mid: int,
        *,
        pool: str | None = None,
        reduce: str = "conv",
        unitary: str = "expm",
        padding: str = "SAME",
        shrink: float = 0.0,
        low_pass: float = 1.0,
        rngs: nnx.Rngs,
    ):
        check_number("mid", mid, 1, features)
        check_choice("pool", pool, [None, "square"])
        check_choice("reduce", reduce, ["conv", "orthogonal"])
        check_choice("unitary", unitary, BUILDERS)
        check_choice("padding", padding, ["SAME", "VALID"])
        check_number("shrink", shrink, 0.0)
        check_number("low_pass", low_pass, 0.0, 1.0, open_low=True)
        self.reduce: nnx.Conv | OrthogonalDense
        if reduce == "conv":
            self.reduce = nnx.Conv(features, mid, (3, 3), padding=padding, rngs=rngs)
        else:
            self.reduce = OrthogonalDense(features, mid, rngs=rngs)
        self.orthogonal = OrthogonalConv(mid, features, unitary=unitary, rngs=rngs)
        self.threshold = nnx.Param(jnp.full(mid, inverse_softplus(shrink))) if shrink else None
        self.pool, self.low_pass = pool, low_pass

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        given = x.shape[1:3]
        x = square_pool(x) if self.pool == "square" else x
        x = self.reduce(x)
        size = x.shape[1], x.shape[2]
        if min(size) < 1:
            raise ValueError(
                f"a {given[0]}x{given[1]} map has no pixels left after pool and padding of this RobustBlock"
            )

        def between(z: Complex[Array, "b h f c"]) -> Complex[Array, "b h f c"]:
            if self.low_pass < 1:
                z = z * jnp.asarray(low_pass_mask(size, self.low_pass)[..., None], z.real.dtype)
            if self.threshold is not None:
                z = soft_threshold(z, jax.nn.softplus(self.threshold[...]))
            return z

        return self.orthogonal(x, between=between)


class Bottleneck(nnx.Module):
    """The control for a RobustBlock: two unconstrained 3×3 convolutions, ``features`` → ``mid`` → ``features``.

    With the same ``pool`` and ``padding`` its output has the size of a RobustBlock's.

    >>> Bottleneck(8, 4, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, features: int, mid: int, *, pool: str | None = None, padding: str = "SAME", rngs: nnx.Rngs):
        check_number("mid", mid, 1, features)
        check_choice("pool", pool, [None, "square"])
        check_choice("padding", padding, ["SAME", "VALID"])
        self.pool = pool
        self.reduce = nnx.Conv(features, mid, (3, 3), padding=padding, rngs=rngs)
        self.expand = nnx.Conv(mid, features, (3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.expand(self.reduce(square_pool(x) if self.pool == "square" else x))
