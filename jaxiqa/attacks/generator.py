"""A small network that emits a universal perturbation, for ``fit_uap(method="generative")``."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import PRNGKey


class Generator(nnx.Module):
    """A pattern ``h w c`` in (−1, 1) from a learned seed map, by three 3×3 convolutions and two doublings of its size.

    Its smooth, coarse-to-fine parametrisation is what tells it from a free pattern.

    Args:
        size: height, width and channels of the pattern.
        width: channels inside.
        rngs: random numbers for seed map and kernels.

    >>> Generator((9, 14, 3), width=4, rngs=nnx.Rngs(0))().shape
    (9, 14, 3)
    """

    def __init__(self, size: tuple[int, int, int], *, width: int = 32, rngs: nnx.Rngs):
        height, width_, channels = size
        self.size = size
        self.seed = nnx.Param(jax.random.normal(rngs.params(), (1, -(-height // 4), -(-width_ // 4), width)))
        conv = partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        self.coarse, self.middle, self.fine = conv(width, width), conv(width, width), conv(width, channels)

    def __call__(self) -> Float[Array, "h w c"]:
        x = _doubled(nnx.leaky_relu(self.coarse(self.seed[...]), 0.2))
        x = _doubled(nnx.leaky_relu(self.middle(x), 0.2))
        height, width, _ = self.size
        return jnp.tanh(self.fine(x))[0, :height, :width]


def _doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return x.repeat(2, axis=1).repeat(2, axis=2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pattern:
    """A `Generator` as a pytree that can be called."""

    graphdef: Any = field(metadata={"static": True})
    state: Any

    def __call__(self) -> Float[Array, "h w c"]:
        return nnx.merge(self.graphdef, self.state)()


@partial(jax.jit, static_argnames="size")
def pattern(size: tuple[int, int, int], key: PRNGKey) -> Pattern:
    """A fresh generator of patterns of this size.

    >>> pattern((5, 6, 3), jax.random.key(0))().shape
    (5, 6, 3)
    """
    return Pattern(*nnx.split(Generator(size, rngs=nnx.Rngs(key))))
