"""A head whose steepness is one number: 1-Lipschitz layers, a mean over pixels, a unit-norm map, a slope."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number, check_size
from jaxiqa.layers import OrthogonalConv, OrthogonalDense, max_min
from jaxiqa.nn.stages import Features


def tail_constant(size: tuple[int, int], *, depth: int) -> float:
    """Return the Lipschitz constant of a `LipschitzTail` with slope 1 on h×w maps, in the Euclidean norm: 1/√n.

    n is the number of pixels of the last map: each side is halved ``depth - 1`` times and rounded up. The mean over
    these pixels reaches the constant; all other layers have the constant 1.

    Raises:
        ValueError: a side or ``depth`` below 1.

    >>> tail_constant((8, 8), depth=2), tail_constant((3, 4), depth=3)
    (0.25, 1.0)
    """
    check_number("depth", depth, 1)
    check_size("size", size)
    h, w = size
    for _ in range(depth - 1):
        h, w = -(-h // 2), -(-w // 2)
    return (h * w) ** -0.5


def pad_to_even(x: Features) -> Features:
    """Append a row and a column of zeros where a side is odd: an isometry.

    >>> pad_to_even(jnp.ones((1, 3, 4, 2))).shape
    (1, 4, 4, 2)
    """
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))


class LipschitzTail(nnx.Module):
    """Map features to a score: ``slope · f(x) + offset``, f with the Lipschitz constant `tail_constant`.

    ``f = unit-norm map(mean over pixels(layers(reduce(x))))``. ``reduce`` is a 1×1 map from the features' channels to
    ``channels`` with orthonormal rows (or columns, if it adds channels). Each of the ``depth`` layers is an orthogonal
    convolution (Cayley transform) and MaxMin. All layers but the first halve the map: blocks of 2×2 pixels become
    channels, which a map with orthonormal rows reduces to ``channels`` again. An odd side gets a row of zeros before.
    So f has no parameter that makes it steeper: only ``slope = exp(log_slope) > 0`` does.

    Args:
        features: channels of the input.
        channels: of the orthogonal layers; even.
        depth: number of orthogonal convolutions.
        rngs: random numbers for the weights.

    Raises:
        ValueError: ``channels`` is odd, or a number below 1.

    >>> tail = LipschitzTail(6, channels=4, depth=2, rngs=nnx.Rngs(0))
    >>> tail(jnp.zeros((3, 5, 7, 6))).shape, float(tail.slope)
    ((3,), 1.0)

    Reference: MaxMin in Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation", arXiv:1811.05381; the
    convolutions in Trockman and Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform",
    arXiv:2104.07167.
    """

    def __init__(self, features: int, *, channels: int, depth: int, rngs: nnx.Rngs):
        check_number("channels", channels, 2)
        check_number("depth", depth, 1)
        if channels % 2:
            raise ValueError(f"channels={channels} is odd; MaxMin sorts pairs of channels")
        self.reduce = OrthogonalDense(features, channels, rngs=rngs)
        self.conv = nnx.List(
            [
                OrthogonalConv(channels, channels, stride=2 if i else 1, unitary="cayley", rngs=rngs)
                for i in range(depth)
            ]
        )
        self.unit = OrthogonalDense(channels, 1, rngs=rngs)
        self.log_slope = nnx.Param(jnp.zeros(1))
        self.offset = nnx.Param(jnp.zeros(1))

    @property
    def slope(self) -> Float[Array, ""]:
        """Return the factor of f, which is positive."""
        return jnp.exp(self.log_slope[0])

    def pooled(self, x: Features) -> Float[Array, "b channels"]:
        """Return the mean over pixels of the last map."""
        x = self.reduce(x)
        for number, conv in enumerate(self.conv):
            x = max_min(conv(pad_to_even(x) if number else x))
        return jnp.mean(x, (1, 2))

    def __call__(self, x: Features) -> Float[Array, " b"]:
        return self.slope * self.unit(self.pooled(x))[:, 0] + self.offset[0]
