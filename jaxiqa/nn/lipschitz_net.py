"""A 1-Lipschitz network of images: orthogonal 1×1 maps, circular shifts, absolute values, and channel norms."""

from collections.abc import Sequence

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.types import Images
from jaxiqa.layers import DirectDense, beta_abs, circular_shift, global_l2_pool, space_to_depth
from jaxiqa.nn.lipschitz_tail import pad_to_even
from jaxiqa.nn.stages import Features


class LipschitzNet(nnx.Module):
    """Map images to one number that moves by at most ‖x − x'‖: ``f(x)``, for images of any size.

    Each level halves the map: 2×2 pixels become channels, an isometry, so that no scale is lost; a row or column of
    zeros is appended where a side is odd. Then come an orthogonal 1×1 map and ``depth`` layers of shift, orthogonal 1×1
    map and absolute values of half the channels. The norm of each channel over all pixels is its energy; two orthogonal
    layers with absolute values and a map of norm 1 turn the energies into a number.

    A level with fewer channels than four times those before drops some directions (a co-isometry): f can still use
    every scale, and the bound is the same.

    Args:
        channels: of each level; the image has 3.
        depth: layers of each level.
        rngs: random numbers for the weights.

    Raises:
        ValueError: no level, or a number below 1.

    >>> import jax.numpy as jnp
    >>> net = LipschitzNet(channels=(12, 16), depth=(1, 2), rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((2, 9, 14, 3))).shape
    (2,)

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513 (shifts, absolute values and pooling by norms); the levels and the head are ours.
    """

    def __init__(self, *, channels: Sequence[int], depth: Sequence[int], rngs: nnx.Rngs):
        if not channels or len(channels) != len(depth):
            raise ValueError(f"channels={channels} and depth={depth}: expected one number per level, and a level")
        before = [3, *channels[:-1]]
        for name, numbers in (("channels", channels), ("depth", depth)):
            for number in numbers:
                check_number(name, number, 1)
        self.down = nnx.List([DirectDense(4 * a, b, rngs=rngs) for a, b in zip(before, channels, strict=True)])
        self.mix = nnx.List(
            [
                nnx.List([DirectDense(c, c, use_bias=True, rngs=rngs) for _ in range(count)])
                for c, count in zip(channels, depth, strict=True)
            ]
        )
        last = channels[-1]
        self.head = nnx.List([DirectDense(last, last, use_bias=True, rngs=rngs) for _ in range(2)])
        self.unit = DirectDense(last, 1, rngs=rngs)

    def bound(self) -> float:
        """Return the product of the largest singular values of all matrices: 1, up to rounding, if they are orthogonal.

        It is computed, not assumed, so a bound that contains it also holds for weights that another optimiser changed.
        """
        matrices = [
            layer.orthogonal_matrix[...] for _, layer in nnx.iter_modules(self) if isinstance(layer, DirectDense)
        ]
        return float(np.prod([np.linalg.norm(np.asarray(matrix, np.float64), 2) for matrix in matrices]))

    def levels(self, x: Images) -> list[Features]:
        """Return the maps after every level."""
        found = []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = down(space_to_depth(pad_to_even(x), 2))
            for number, layer in enumerate(mix):
                # Distances 1, 2, 4 …, so that few layers see far.
                x = beta_abs(layer(circular_shift(x, distance=2 ** (number % 3), share=1.0)))
            found.append(x)
        return found

    def energies(self, x: Images) -> Float[Array, "b k"]:
        """Return the norm of each channel of the last level over all pixels."""
        return global_l2_pool(self.levels(x)[-1])

    def number(self, energies: Float[Array, "b k"]) -> Float[Array, " b"]:
        """Return f from the energies."""
        for layer in self.head:
            energies = beta_abs(layer(energies))
        return self.unit(energies)[:, 0]

    def __call__(self, x: Images) -> Float[Array, " b"]:
        return self.number(self.energies(x))
