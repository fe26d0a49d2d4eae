"""Structural similarity over several scales."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.ops.ssim import WINDOW, _blur

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first (Wang et al. 2003)."""

MINIMUM = (WINDOW - 1) * 2 ** (len(EXPONENTS) - 1) + 1


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
