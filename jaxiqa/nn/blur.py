"""Blurs before strided convolutions and poolings, so that a shift of the input by a pixel changes their output less.

"Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486. **Differs from the paper**: the input of each
strided operation is blurred, not the output of a dense one, so it costs little; a maximum is still taken at every
second pixel only.

A pooling with stride has a static attribute ``blur``, the taps of the blur before it; its class has 1, no blur. A
convolution has the blur in the function that computes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from jaxiqa.layers.blur import TAPS, binomial_blur

BLURS = (1, *TAPS)
"""Taps of a blur; 1: none."""


def blurred(x: Float[Array, "b h w c"], taps: int) -> Float[Array, "b h w c"]:
    """Return `jaxiqa.layers.binomial_blur` of the map, or with one tap the map itself.

    Args:
        x: the map.
        taps: one of `BLURS`.

    >>> import jax.numpy as jnp
    >>> blurred(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), 3).ravel().tolist()
    [1.0, 3.0]
    """
    return x if taps == 1 else binomial_blur(x, taps)


@dataclass(frozen=True)
class BlurredConv:
    """Compute a convolution of the blurred map; it takes the place of ``compute`` in an `nnx.Conv`.

    Equal values compare as equal, so that models of the same structure share compiled programs.

    Attributes:
        compute: a function of `jaxiqa.nn.conv`, or `jax.lax.conv_general_dilated`.
        taps: of the blur.
    """

    compute: Callable[..., Array]
    taps: int

    def __call__(
        self, x: Float[Array, "b h w cin"], kernel: Float[Array, "kh kw _ cout"], *arguments: Any, **options: Any
    ) -> Float[Array, "b h2 w2 cout"]:
        return self.compute(blurred(x, self.taps), kernel, *arguments, **options)
