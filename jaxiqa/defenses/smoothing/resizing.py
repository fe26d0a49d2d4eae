"""Images brought to a diffusion model's size, and what that does to distances."""

from functools import partial

import numpy as np

from jaxiqa.checks import check_count, check_images
from jaxiqa.ops.resize import bilinear_weights, resize_bilinear
from jaxiqa.types import Images


def check_size(size: int | None) -> None:
    """Raise ``ValueError`` unless ``size`` is None or a whole number >= 1."""
    if size is not None:
        check_count("size", size, 1)


def resize_norm(h: int, w: int, side: int) -> float:
    """Spectral norm of the bilinear resize to a square: how much longer, at most, a difference of images becomes.

    The resize of an image is that of its columns after that of its rows, so its norm is the product of the two.

    >>> print(round(resize_norm(512, 384, 256), 3), resize_norm(8, 8, 8))
    0.578 1.0
    """
    return _length(h, side) * _length(w, side)


def _length(old: int, new: int) -> float:
    return float(np.linalg.norm(bilinear_weights(old, new, True), 2))


def resized_to(side: int | None, images: Images):
    """The resize of these images, or None, with its norm."""
    check_images("images", images)
    if side is None or images.shape[1:3] == (side, side):
        return None, 1.0
    return partial(resize_bilinear, size=(side, side)), resize_norm(*images.shape[1:3], side)
