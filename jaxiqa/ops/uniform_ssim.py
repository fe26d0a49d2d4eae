"""Structural similarity as scikit-image computes it by default."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_images
from jaxiqa.core.types import Images, Scores

WINDOW = 7


def uniform_ssim(a: Images, b: Images) -> Scores:
    """SSIM in windows of 7×7 equal weights, with sample variances (49 / 48), for values in [0, 1].

        mean over pixels and channels of (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))

    inside the image only, c₁ = 0.01², c₂ = 0.03²: what the defense benchmark (arXiv:2408.01541) measures pictures by.
    `jaxiqa.ops.ssim.ssim` has the Gaussian window of the original paper.

    Args:
        a, b: images of one shape, float in [0, 1]; sides of at least 7 pixels.

    Raises:
        ValueError: the images differ in shape, are not float, or a side is shorter than the window.

    >>> x = jnp.linspace(0, 1, 8 * 9 * 3).reshape(1, 8, 9, 3)
    >>> round(float(uniform_ssim(x, x)[0]), 5)
    1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"images have different shapes: {a.shape} and {b.shape}")
    check_images("a", a, minimum=WINDOW)
    check_images("b", b, minimum=WINDOW)
    # Around the mean of all pixels, which changes no variance, float32 loses fewer digits.
    centre = jnp.mean(a, axis=(1, 2, 3), keepdims=True)
    mean_a, mean_b = _mean(a - centre), _mean(b - centre)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    variance_a = sample * (_mean((a - centre) ** 2) - mean_a**2)
    variance_b = sample * (_mean((b - centre) ** 2) - mean_b**2)
    covariance = sample * (_mean((a - centre) * (b - centre)) - mean_a * mean_b)
    mean_a, mean_b = mean_a + centre, mean_b + centre
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _mean(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        x = sum(jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(WINDOW)) / WINDOW
    return x
