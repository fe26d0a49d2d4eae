"""A fixed band limit: remove the high frequencies of an image or a feature map."""

import jax.numpy as jnp
import numpy as np
import scipy.fft
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number, check_option
from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.linear_algebra import HIGHEST

EDGE = 0.5
"""Width of the smooth edge, as a share of the band: a sharp one would ring along every contour."""


def band_gains(side: int, share: float) -> Float[np.ndarray, " side"]:
    """Return the gain of each cosine of an axis: 1 up to half of the band, then a cosine wave down to 0 at its end.

    Frequency k of n is k / n of the highest possible one. With a share of 1 all gains are 1.

    >>> band_gains(8, 0.5).round(3).tolist()
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    if share == 1:
        return np.ones(side)
    place = (np.arange(side) / side / share - (1 - EDGE)) / EDGE
    return (1 + np.cos(np.pi * np.clip(place, 0, 1))) / 2


def band_matrix(side: int, share: float) -> Float[np.ndarray, "side side"]:
    """Return Cᵀ diag(g) C: the symmetric matrix that limits the band of one axis, C the orthonormal DCT-II."""
    cosines = scipy.fft.dct(np.eye(side), norm="ortho", axis=0)
    return cosines.T @ (band_gains(side, share)[:, None] * cosines)


@at_least_float32
def low_pass(x: Float[Array, "b h w c"], share: float) -> Float[Array, "b h w c"]:
    """Remove frequencies above ``share`` of the highest one, along both axes, with a smooth edge (`band_gains`).

    Computed in the basis of the DCT-II, whose cosines continue a map by reflection: borders do not mix as in a Fourier
    transform, and a constant map does not change. All gains are in [0, 1] and the basis is orthonormal, so the map is
    1-Lipschitz in the Euclidean norm, at any height and width. It costs two products with a matrix of one side.

    Args:
        x: images or feature maps.
        share: of the frequency range, in (0, 1]; 1 changes nothing.

    Raises:
        ValueError: a share out of range.

    >>> stripes = jnp.tile(jnp.array([0.0, 1.0]), 16).reshape(1, 1, 32, 1)
    >>> [float(abs(low_pass(x, 0.5) - 0.5)[0, 0, 8:24].max().round(1)) for x in (stripes, 0.5 + 0 * stripes)]
    [0.0, 0.0]
    """
    check_number("share", share, 0.0, 1.0, open_low=True)
    if share == 1:
        return x
    rows, columns = (jnp.asarray(band_matrix(side, share), x.dtype) for side in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=HIGHEST)


class LowPass(nnx.Module):
    """`low_pass` as a stage of a network; before the first stage, it limits the band of the images.

    >>> LowPass(share=0.5)(jnp.ones((1, 5, 7, 3))).shape
    (1, 5, 7, 3)
    """

    def __init__(self, *, share: float):
        check_option("share", share, open_low=True)
        check_number("share", share, 0.0, 1.0, open_low=True)
        self.share = share

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return low_pass(x, self.share)
