"""The low band of the Haar wavelet transform."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32


@at_least_float32
def haar_low(images: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
    """Return the low-low band of one level of the orthonormal Haar transform: twice the mean of each 2x2 block.

    Args:
        images: of any height and width; an odd side is first padded with a row or column of zeros.

    Returns:
        The band, of half the height and width, rounded up.

    >>> haar_low(jnp.arange(4.0).reshape(2, 2, 1)).tolist()
    [[[3.0]]]
    """
    *batch, h, w, c = images.shape
    padded = jnp.pad(images, [(0, 0)] * len(batch) + [(0, h % 2), (0, w % 2), (0, 0)])
    blocks = padded.reshape(*batch, (h + 1) // 2, 2, (w + 1) // 2, 2, c)
    return blocks.sum((-4, -2)) / 2


@at_least_float32
def haar_low_pass(images: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
    """Rebuild images from `haar_low` alone: each 2x2 block is replaced by its mean; an odd side grows by one.

    >>> haar_low_pass(jnp.array([[[1.0], [2.0], [4.0]]]))[..., 0].tolist()
    [[0.75, 0.75, 1.0, 1.0], [0.75, 0.75, 1.0, 1.0]]
    """
    means = haar_low(images) / 2
    return jnp.repeat(jnp.repeat(means, 2, axis=-3), 2, axis=-2)
