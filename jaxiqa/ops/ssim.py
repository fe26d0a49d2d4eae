"""Full-reference similarity of images."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_images
from jaxiqa.core.types import Images, Scores

WINDOW, SIGMA = 11, 1.5


def ssim(a: Images, b: Images) -> Scores:
    """Structural similarity, in [−1, 1], 1 for equal images.

        mean over pixels and channels of (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))

    with a Gaussian window of 11 pixels, σ = 1.5, inside the image only, c₁ = 0.01², c₂ = 0.03², for values in [0, 1].

    Args:
        a, b: images of one shape, float in [0, 1]; sides of at least 11 pixels.

    Returns:
        One value per image. Differentiable, also where the images are equal.

    Raises:
        ValueError: the images differ in shape, are not float, or a side is shorter than the window.

    >>> x = jnp.linspace(0, 1, 12 * 13 * 3).reshape(1, 12, 13, 3)
    >>> round(float(ssim(x, x)[0]), 6)
    1.0

    Reference: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    if a.shape != b.shape:
        raise ValueError(f"images have different shapes: {a.shape} and {b.shape}")
    check_images("a", a, minimum=WINDOW)
    check_images("b", b, minimum=WINDOW)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def psnr(a: Images, b: Images) -> Scores:
    """Peak signal-to-noise ratio in dB, −10 log₁₀ mean((a − b)²); infinite for equal images.

    Its gradient is not defined there.

    >>> float(psnr(jnp.zeros((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 0.1))[0].round(4))
    20.0
    """
    return -10 * jnp.log10(jnp.mean((a - b) ** 2, axis=(1, 2, 3)))


def _blur(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Separable Gaussian, valid part, as shifted sums: on a CPU far quicker than a depthwise convolution."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = [float(weight) for weight in weights / weights.sum()]
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        x = sum(w * jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i, w in enumerate(weights))
    return x
