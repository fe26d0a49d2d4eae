"""Full-reference similarity of images: SSIM with either window, multi-scale SSIM, and PSNR."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32
from jaxiqa.core.types import Images, Scores
from jaxiqa.ops.filters import gaussian_weights, separable_filter

C1, C2 = 0.01**2, 0.03**2
"""The constants c₁ and c₂ of SSIM, for values in [0, 1]."""


class _Window(NamedTuple):
    """How SSIM takes means, variances and covariances around each pixel.

    Attributes:
        weights, divisor: of `separable_filter`.
        correction: factor of variances and covariances.
        centred: subtract the mean of all pixels first. That changes no variance, and float32 loses fewer digits.
    """

    weights: Any
    divisor: float = 1.0
    correction: float = 1.0
    centred: bool = False


WINDOWS = {
    "gaussian": _Window(gaussian_weights(11, 1.5)),
    "uniform": _Window(7 * [1.0], divisor=7.0, correction=7**2 / (7**2 - 1), centred=True),
}
SIDE = len(WINDOWS["gaussian"].weights)


@partial(jax.jit, static_argnames="window")
@at_least_float32
def ssim(a: Images, b: Images, *, window: str = "gaussian") -> Scores:
    """Structural similarity, in [−1, 1], 1 for equal images.

        mean over pixels and channels of (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂))

    with windows inside the image only, c₁ = 0.01², c₂ = 0.03², for values in [0, 1].

    Args:
        a, b: images of one shape, float in [0, 1]; sides of at least 11 pixels, or 7 with the uniform window.
        window: ``"gaussian"``: 11×11 pixels with σ = 1.5, as in the paper; ``"uniform"``: 7×7 equal weights and sample
            variances (49 / 48), as scikit-image has it by default.

    Returns:
        One value per image. Differentiable, also where the images are equal.

    Raises:
        ValueError: the images differ in shape, are not float, or a side is shorter than the window; an unknown window.

    >>> x = jnp.linspace(0, 1, 12 * 13 * 3).reshape(1, 12, 13, 3)
    >>> round(float(ssim(x, x)[0]), 6), round(float(ssim(x, x, window="uniform")[0]), 5)
    (1.0, 1.0)

    Reference: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    check_choice("window", window, WINDOWS)
    _check_pair(a, b, minimum=len(WINDOWS[window].weights))
    luminance, structure = _factors(a, b, WINDOWS[window])
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def uniform_ssim(a: Images, b: Images) -> Scores:
    """`ssim` with ``window="uniform"``, as the defense benchmark (arXiv:2408.01541) measures images.

    Arguments, result and errors are those of `ssim`; sides of at least 7 pixels.

    >>> x = jnp.linspace(0, 1, 8 * 9 * 3).reshape(1, 8, 9, 3)
    >>> round(float(uniform_ssim(x, x)[0]), 5)
    1.0
    """
    return ssim(a, b, window="uniform")


@at_least_float32
def psnr(a: Images, b: Images) -> Scores:
    """Return the peak signal-to-noise ratio in dB, −10 log₁₀ mean((a − b)²); infinite for equal images.

    Its gradient is undefined for equal images.

    >>> float(psnr(jnp.zeros((1, 2, 2, 3)), jnp.full((1, 2, 2, 3), 0.1))[0].round(4))
    20.0
    """
    return -10 * jnp.log10(jnp.mean((a - b) ** 2, axis=(1, 2, 3)))


def _check_pair(a: Images, b: Images, *, minimum: int) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images have different shapes: {a.shape} and {b.shape}")
    check_images("a", a, minimum=minimum)
    check_images("b", b, minimum=minimum)


def _factors(a: Images, b: Images, window: _Window) -> tuple[Float[Array, "b h2 w2 c"], Float[Array, "b h2 w2 c"]]:
    """Luminance (the factor of the means) and structure (that of variances and covariance) at every pixel."""
    mean = partial(separable_filter, weights=window.weights, divisor=window.divisor)
    centre = jnp.mean(a, axis=(1, 2, 3), keepdims=True) if window.centred else 0.0
    a, b = a - centre, b - centre
    mean_a, mean_b = mean(a), mean(b)
    variance_a = window.correction * (mean(a * a) - mean_a**2)
    variance_b = window.correction * (mean(b * b) - mean_b**2)
    covariance = window.correction * (mean(a * b) - mean_a * mean_b)
    mean_a, mean_b = mean_a + centre, mean_b + centre
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return luminance, structure


EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first (Wang et al. 2003)."""
MINIMUM = (SIDE - 1) * 2 ** (len(EXPONENTS) - 1) + 1


@jax.jit
@at_least_float32
def ms_ssim(a: Images, b: Images) -> Scores:
    """Return the multi-scale structural similarity, in [0, 1], 1 for equal images.

        mean over channels of l₅^w₅ · ∏ⱼ csⱼ^wⱼ,    cs = (2 σ_ab + c₂) / (σ_a² + σ_b² + c₂),

    where the factors of a scale are means over its pixels, l₅ · cs₅ is the SSIM of the coarsest scale
    (`jaxiqa.ops.ssim.ssim` has the window and the constants), and each scale is the previous one, averaged over
    2×2 pixels.

    Args:
        a, b: images of one shape, float in [0, 1]; sides of at least 161 pixels, so that five scales hold the window.

    Returns:
        One value per image. Differentiable; a negative mean counts as 0, and so does its gradient.

    Raises:
        ValueError: the images differ in shape, are not float, or a side is too short.

    >>> jax.eval_shape(ms_ssim, *2 * [jax.ShapeDtypeStruct((2, 161, 170, 3), "float32")]).shape
    (2,)

    Reference: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment", 2003.

    **Differs from the paper** as the common implementations do: an odd side is padded with a row of zeros on both ends
    before averaging, and colour channels are measured separately.
    """
    _check_pair(a, b, minimum=MINIMUM)
    product = jnp.ones((a.shape[0], a.shape[3]), a.dtype)
    for scale, exponent in enumerate(EXPONENTS):
        if scale > 0:
            a, b = _halve(a), _halve(b)
        luminance, values = _factors(a, b, WINDOWS["gaussian"])
        if scale == len(EXPONENTS) - 1:
            values = luminance * values
        product = product * _power(values.mean((1, 2)), exponent)
    return product.mean(1)


def _power(x: Float[Array, "b c"], exponent: float) -> Float[Array, "b c"]:
    # The power of zero is avoided: its derivative is infinite.
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** exponent, 0)


def _halve(x: Images) -> Float[Array, "b _ _ c"]:
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (height % 2, height % 2), (width % 2, width % 2), (0, 0)))
    height, width = (side // 2 for side in x.shape[1:3])
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(-1, height, 2, width, 2, x.shape[3]).mean((2, 4))
