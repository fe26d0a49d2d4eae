"""Noisy copies of images, clipped or denoised.

A view is a pytree, ``view(images m h w 3, words m 2, samples m) -> (m · votes) h w 3``, that adds the noise itself.
What it does with the noisy image is part of the smoothed function, so certificates hold for any view.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxiqa.core.bilinear import bilinear_weights
from jaxiqa.core.checks import check_choice, check_count
from jaxiqa.core.images import check_images
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.types import Images
from jaxiqa.defenses.smoothing.noise import Words, gaussian
from jaxiqa.ops.resize import resize_bilinear

VARIANTS = ("paper", "benchmark")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noisy:
    """``clip(x + σ noise, 0, 1)``: metrics get images in [0, 1]."""

    sigma: Any  # a number, or a leaf of a traced view

    votes: ClassVar[int] = 1

    def __call__(self, images: Images, words: Words, samples: Int[Array, " m"]) -> Images:
        return jnp.clip(images + self.sigma * gaussian(words, samples, images.shape[1:]), 0, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Denoised:
    """``clip(denoise(x + σ noise), 0, 1)``; ``variant="benchmark"`` clips before the denoiser too."""

    sigma: Any  # a number, or a leaf of a traced view
    denoise: Any
    variant: str = static("paper")

    votes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, VARIANTS)

    def __call__(self, images: Images, words: Words, samples: Int[Array, " m"]) -> Images:
        noisy = images + self.sigma * gaussian(words, samples, images.shape[1:])
        denoised = self.denoise(jnp.clip(noisy, 0, 1) if self.variant == "benchmark" else noisy)
        if denoised.shape != images.shape:
            raise ValueError(
                f"denoise returned shape {denoised.shape} for images {images.shape}; expected the same shape"
            )
        return jnp.clip(denoised, 0, 1)


def noisy_view(
    sigma: float, denoise: Callable[[Images], Images] | None = None, variant: str = "paper"
) -> Noisy | Denoised:
    """What a metric sees of a noisy copy: `Noisy` without a denoiser, `Denoised` with one.

    Args:
        sigma: standard deviation of the noise in [0, 1] pixel units.
        denoise: None, or ``b h w 3 -> b h w 3``.
        variant: ``"paper"`` or ``"benchmark"``, see `Denoised`.

    Raises:
        ValueError: ``denoise`` cannot be called or has random weights, or the variant is unknown.

    >>> noisy_view(0.12)
    Noisy(sigma=0.12)
    """
    check_choice("variant", variant, VARIANTS)
    return Noisy(sigma) if denoise is None else Denoised(sigma, trained("denoise", denoise), variant)


def check_size(size: int | None) -> None:
    """Check that ``size`` is None or a whole number >= 1; otherwise raise ``ValueError``."""
    if size is not None:
        check_count("size", size, 1)


def resize_norm(h: int, w: int, side: int) -> float:
    """Return the spectral norm of the bilinear resize to a square: its largest amplification of an image difference.

    The resize works along rows and along columns, so its norm is the product of the two norms.

    >>> print(round(resize_norm(512, 384, 256), 3), resize_norm(8, 8, 8))
    0.578 1.0
    """
    return _length(h, side) * _length(w, side)


def _length(old: int, new: int) -> float:
    return float(np.linalg.norm(bilinear_weights(old, new, True), 2))


def resized_to(side: int | None, images: Images) -> tuple[Callable[[Images], Images] | None, float]:
    """Return the resize of these images, or None, and its spectral norm."""
    check_images("images", images)
    _, h, w, _ = images.shape
    if side is None or (h, w) == (side, side):
        return None, 1.0
    return partial(resize_bilinear, size=(side, side)), resize_norm(h, w, side)
