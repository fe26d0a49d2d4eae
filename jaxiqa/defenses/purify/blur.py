"""Blurring and sharpening."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import Number, check_strength, computed
from jaxiqa.ops.filters import check_window, gaussian_blur, median_blur


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian blur, borders reflected.

    Args:
        kernel_size: side k of the window in pixels, odd; images need sides above ``k // 2``.
        sigma: standard deviation in pixels, > 0; None is ``0.3 ((k − 1) / 2 − 1) + 0.8``.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> round(GaussianBlur(7).sigma, 3), GaussianBlur(3)(jnp.full((1, 4, 5, 3), 0.5)).mean().item()
    (1.4, 0.5)

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541.
    """

    kernel_size: int = static(3)
    sigma: Number | None = None

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_window("kernel_size", self.kernel_size)
        if self.sigma is None:
            object.__setattr__(self, "sigma", 0.3 * ((self.kernel_size - 1) / 2 - 1) + 0.8)
        check_strength("sigma", self.sigma, 0, open_low=True)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3, minimum=self.kernel_size // 2 + 1)
        return computed(images, lambda x: gaussian_blur(x, self.kernel_size, self.sigma))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MedianBlur:
    """Median of the ``k × k`` pixels around each pixel, channel by channel, borders reflected.

    Its gradient is 1 at the pixel that holds the median and 0 elsewhere. This is exact but of little use to an attack:
    it ignores the pixels that become the median after a change. For an adaptive attack use
    ``bpda(purify, purify.surrogate)``; the surrogate is the `GaussianBlur` of the same window.

    Args:
        kernel_size: side k of the window in pixels, odd; images need sides above ``k // 2``.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> MedianBlur(3)(jnp.zeros((1, 4, 5, 3)).at[0, 2, 2].set(1.0)).max().item()
    0.0

    Reference: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", arXiv:1704.01155.
    """

    kernel_size: int = static(3)

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_window("kernel_size", self.kernel_size)

    @property
    def surrogate(self) -> GaussianBlur:
        return GaussianBlur(self.kernel_size)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3, minimum=self.kernel_size // 2 + 1)
        return computed(images, lambda x: median_blur(x, self.kernel_size))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unsharp:
    """Sharpening: add what a blur removes, ``clip(x + amount · (x − blur(x)), 0, 1)``.

    Args:
        kernel_size: side k of the blur's window in pixels, odd; images need sides above ``k // 2``.
        sigma: standard deviation of the blur in pixels, > 0.
        amount: factor of the added part, at least 0.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> Unsharp(3)(jnp.zeros((1, 4, 5, 3)).at[0, 2, 2].set(0.5))[0, 2, 2].round(2).tolist()
    [0.8999999761581421, 0.8999999761581421, 0.8999999761581421]

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541.
    """

    kernel_size: int = static(3)
    sigma: Number = 1.0
    amount: Number = 1.0

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_window("kernel_size", self.kernel_size)
        check_strength("sigma", self.sigma, 0, open_low=True)
        check_strength("amount", self.amount, 0)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3, minimum=self.kernel_size // 2 + 1)
        blur = lambda x: gaussian_blur(x, self.kernel_size, self.sigma)  # noqa: E731
        return computed(images, lambda x: _sharpened(x, blur(x), self.amount))


@jax.jit
def _sharpened(images, blurred, amount):
    return jnp.clip(images + amount * (images - blurred), 0, 1)
