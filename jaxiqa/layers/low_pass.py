"""A fixed low-pass filter of a map or an image in the Fourier domain: 1-Lipschitz, without parameters."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.precision import at_least_float32
from jaxiqa.layers.fourier import from_frequencies, to_frequencies


def band_window(size: tuple[int, int], share: float, edge: float) -> Float[np.ndarray, "h f"]:
    """Return factors in [0, 1] for the rfft2 coefficients of an h×w map: a product of one factor per axis.

    With t = |frequency| / (``share`` · the highest frequency), the factor of an axis is 1 for t ≤ 1 − ``edge``,
    0 for t > 1, and ½ (1 + cos(π (t − 1 + edge) / edge)) between them.

    >>> band_window((1, 8), 1.0, 0.5).round(3).tolist()  # frequencies 0, 1/4, 1/2, 3/4 and 1 of the highest
    [[1.0, 1.0, 1.0, 0.5, 0.0]]
    """
    h, w = size
    axes = []
    for frequencies in (np.fft.fftfreq(h), np.fft.rfftfreq(w)):
        t = np.abs(frequencies) * 2 / share
        # A frequency on the edge counts as inside, despite rounding.
        fall = np.clip((t - 1 + edge) / edge, 0, 1) if edge else (t > 1 + 1e-9).astype(float)
        axes.append(0.5 * (1 + np.cos(np.pi * fall)))
    return np.outer(*axes).astype(np.float32)


@at_least_float32
def low_pass(x: Float[Array, "b h w c"], share: float, edge: float = 0.5) -> Float[Array, "b h w c"]:
    """Keep the low frequencies of every channel: multiply the Fourier coefficients by `band_window`. It is 1-Lipschitz.

    The mean stays. The map repeats beyond its edges, as in every circular convolution. Any h and w.

    Args:
        x: a map or an image; its values are not clipped.
        share: frequencies above this share of the highest one, per axis, become zero; in (0, 1].
        edge: part of the band in which the factors fall from 1 to 0, in [0, 1]. A sharp cut rings longest: a step then
            overshoots by 9 %, and by 8 % with the default, whose ringing fades sooner; with 1 (a Hann window) by 0.6 %.

    Raises:
        ValueError: ``share`` or ``edge`` outside its range.

    >>> checks = jnp.array([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 4, 1)
    >>> low_pass(checks, 0.5).ravel().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    check_number("share", share, 0.0, 1.0, open_low=True)
    check_number("edge", edge, 0.0, 1.0)
    size = x.shape[1], x.shape[2]
    z = to_frequencies(x)
    return from_frequencies(z * jnp.asarray(band_window(size, share, edge)[..., None], z.real.dtype), size)


class LowPass(nnx.Module):
    """`low_pass` as a stage of a network; arguments as there. It has no parameters.

    >>> LowPass(0.5)(jnp.ones((2, 5, 7, 8))).shape
    (2, 5, 7, 8)
    """

    def __init__(self, share: float, edge: float = 0.5):
        check_number("share", share, 0.0, 1.0, open_low=True)
        check_number("edge", edge, 0.0, 1.0)
        self.share, self.edge = share, edge

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return low_pass(x, self.share, self.edge)
