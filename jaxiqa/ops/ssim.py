"""Full-reference similarity of images."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32
from jaxiqa.core.types import Images, Scores

WINDOW, SIGMA = 11, 1.5


@at_least_float32
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


@at_least_float32
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
    bell = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = [float(weight) for weight in bell / bell.sum()]
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        x = reduce(add, (w * jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i, w in enumerate(weights)))
    return x


UNIFORM_WINDOW = 7


@at_least_float32
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
    check_images("a", a, minimum=UNIFORM_WINDOW)
    check_images("b", b, minimum=UNIFORM_WINDOW)
    # Around the mean of all pixels, which changes no variance, float32 loses fewer digits.
    centre = jnp.mean(a, axis=(1, 2, 3), keepdims=True)
    mean_a, mean_b = _mean(a - centre), _mean(b - centre)
    sample = UNIFORM_WINDOW**2 / (UNIFORM_WINDOW**2 - 1)
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
        length = x.shape[axis] - UNIFORM_WINDOW + 1
        parts = (jax.lax.slice_in_dim(x, i, i + length, axis=axis) for i in range(UNIFORM_WINDOW))
        x = reduce(add, parts) / UNIFORM_WINDOW
    return x


EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first (Wang et al. 2003)."""


MINIMUM = (WINDOW - 1) * 2 ** (len(EXPONENTS) - 1) + 1


@at_least_float32
def ms_ssim(a: Images, b: Images) -> Scores:
    """Multi-scale structural similarity, in [0, 1], 1 for equal images.

        mean over channels of l₅^w₅ · ∏ⱼ csⱼ^wⱼ,    cs = (2 σ_ab + c₂) / (σ_a² + σ_b² + c₂),

    where the factors of a scale are means over its pixels, l₅ · cs₅ is the SSIM of the coarsest one
    (`jaxiqa.ops.ssim.ssim` has the window and the constants), and a scale is the one before it, averaged over
    2×2 pixels.

    Args:
        a, b: images of one shape, float in [0, 1]; sides of at least 161 pixels, so that five scales hold the window.

    Returns:
        One value per image. Differentiable; where a mean is negative it counts as 0, and so does its gradient.

    Raises:
        ValueError: the images differ in shape, are not float, or a side is too short.

    >>> import jax
    >>> jax.eval_shape(ms_ssim, *2 * [jax.ShapeDtypeStruct((2, 161, 170, 3), "float32")]).shape
    (2,)

    Reference: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment", 2003.

    **Differs from the paper** as the common implementations do: an odd side gets a row of zeros on both ends before it
    is averaged, and colour channels are measured one by one.
    """
    if a.shape != b.shape:
        raise ValueError(f"images have different shapes: {a.shape} and {b.shape}")
    check_images("a", a, minimum=MINIMUM)
    check_images("b", b, minimum=MINIMUM)
    product = jnp.ones((a.shape[0], a.shape[3]), a.dtype)
    for scale, exponent in enumerate(EXPONENTS):
        last = scale == len(EXPONENTS) - 1
        product = product * _power(_similarity(a, b, luminance=last), exponent)
        if not last:
            a, b = _halve(a), _halve(b)
    return product.mean(1)


def _similarity(a: Images, b: Images, *, luminance: bool) -> Float[Array, "b c"]:
    """The mean over pixels of contrast times structure; with ``luminance``, of all three."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * covariance + c2) / (variance_a + variance_b + c2)
    if luminance:
        values = values * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return values.mean((1, 2))


def _power(x: Float[Array, "b c"], exponent: float) -> Float[Array, "b c"]:
    # The power is taken only where it is used: at zero its derivative is infinite.
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** exponent, 0)


def _halve(x: Images) -> Float[Array, "b _ _ c"]:
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (height % 2, height % 2), (width % 2, width % 2), (0, 0)))
    height, width = (side // 2 for side in x.shape[1:3])
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(-1, height, 2, width, 2, x.shape[3]).mean((2, 4))
