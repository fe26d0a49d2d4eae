"""Locally normalised contrast: how far each pixel is from its surroundings, divided by how much these vary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32
from jaxiqa.ops.filters import check_window, gaussian_weights

ROUNDING = 16.0
"""Differences from the mean of up to this many units in the last place count as none."""


@at_least_float32
def local_contrast(
    images: Float[Array, "b h w c"], *, size: int = 7, sigma: float = 7 / 6, offset: float = 1 / 255
) -> Float[Array, "b h w c"]:
    """Subtract the mean around each pixel and divide by the deviation: ``(x − μ) / (√(Σ w (x_k − μ)²) + offset)``.

    ``μ = Σ w x_k`` over ``size × size`` pixels with Gaussian weights, whose sum is 1; pixels outside the image are 0.
    The natural-scene statistics of BRISQUE and NIQE are statistics of these numbers ("MSCN coefficients").

    Means and variances are computed from differences between pixels, so that a flat area has exactly the variance
    0, with a gradient of 0. There the difference ``x − μ`` is rounding too (`ROUNDING`). It is set to the positive
    number ``2⁻⁵³ x``: so a statistic that counts signs does not depend on rounding.

    Args:
        images: of any range; every channel for itself.
        size: side of the window in pixels, odd.
        sigma: standard deviation of the weights in pixels.
        offset: added to the deviation, > 0.

    Raises:
        ValueError: bad images, or an even window.

    >>> image = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0)
    >>> [f"{value:.3f}" for value in local_contrast(image)[0, 4, 3:6, 0]]
    ['-0.293', '2.709', '-0.293']

    Reference: Ruderman, "The statistics of natural images", 1994.
    """
    check_images("images", images)
    check_window("size", size)
    once = jax.lax.optimization_barrier  # else every shift would be computed again, see `jaxiqa.ops.filters`
    weights = gaussian_weights(size, sigma)
    half = size // 2
    h, w = images.shape[1:3]
    padded = once(jnp.pad(images, ((0, 0), (half, half), (half, half), (0, 0))))
    # Along rows: the mean minus the middle pixel, and the variance.
    taps = [padded[:, :, i : i + w] for i in range(size)]
    middle = taps[half]
    shift = once(sum(weight * (tap - middle) for weight, tap in zip(weights, taps, strict=True)))
    spread = once(sum(weight * (tap - middle - shift) ** 2 for weight, tap in zip(weights, taps, strict=True)))
    # Along columns: the mean of the rows' means; the mean of their variances plus the variance of their means.
    centre = middle[:, half : half + h]
    steps = [middle[:, i : i + h] - centre + shift[:, i : i + h] for i in range(size)]
    mean = once(sum(weight * step for weight, step in zip(weights, steps, strict=True)))
    variance = sum(
        weight * (spread[:, i : i + h] + (step - mean) ** 2)
        for i, (weight, step) in enumerate(zip(weights, steps, strict=True))
    )
    flat = jnp.abs(mean) <= ROUNDING * jnp.finfo(images.dtype).epsneg * jnp.abs(images)
    difference = -mean + jax.lax.stop_gradient(jnp.where(flat, 2.0**-53 * images + mean, 0.0))
    varied = variance > 0
    deviation = jnp.where(varied, jnp.sqrt(jnp.where(varied, variance, 1.0)), 0.0)
    return once(difference / (deviation + offset))
