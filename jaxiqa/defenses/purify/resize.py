"""Shrink images, and enlarge them again."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import VARIANTS, check_strength, computed, keep_size_of
from jaxiqa.ops.resize import resize_bilinear

FULL = (384, 512)
"""Height and width to which the benchmark enlarged every image."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Resize:
    """Resize bilinearly to ``⌊scale · h⌋ × ⌊scale · w⌋`` pixels (at least one), and back to the input's size.

    Args:
        scale: in (0, 1].
        keep_size: True: resize back to the input's size; False: return the small image; None: the variant decides.
        variant: ``"paper"`` shrinks with antialiasing and keeps the size; ``"benchmark"`` interpolates two pixels per
            axis at every scale and returns the small image, which the metric then scores.

    Takes images ``b h w 3`` in [0, 1], returns as many images; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> import jax.numpy as jnp
    >>> images = jnp.zeros((1, 9, 14, 3))
    >>> Resize(0.5)(images).shape, Resize(0.5, keep_size=False)(images).shape
    ((1, 9, 14, 3), (1, 4, 7, 3))

    Reference: Guo et al., "Countering Adversarial Images using Input Transformations", arXiv:1711.00117.
    """

    scale: int | float = static(0.5)
    keep_size: bool | None = static(None)
    variant: str = static("paper")

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_strength("scale", self.scale, 0, 1, open_low=True)
        keep_size_of(self)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b h2 w2 3"]:
        check_unit_images(images, channels=3)
        small, size = partial(_shrunk, scale=self.scale, variant=self.variant), images.shape[1:3]
        return computed(images, lambda x: resize_bilinear(small(x), size) if self.keep_size else small(x))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Upscale:
    """Shrink an image by ``scale`` and enlarge it bilinearly: `Resize`, always back to full size.

    Args:
        scale: in (0, 1].
        variant: ``"paper"`` shrinks with antialiasing and enlarges to the input's size; ``"benchmark"`` interpolates
            two pixels per axis at every scale and enlarges to 384×512 for every input size.

    Takes images ``b h w 3`` in [0, 1], returns as many images; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> import jax.numpy as jnp
    >>> Upscale(0.25)(jnp.zeros((1, 9, 14, 3))).shape, Upscale(variant="benchmark")(jnp.zeros((1, 9, 14, 3))).shape
    ((1, 9, 14, 3), (1, 384, 512, 3))

    Reference: Mustafa et al., "Image Super-Resolution as a Defense Against Adversarial Attacks", arXiv:1901.01677.

    **Differs from the paper**: a bilinear filter replaces the super-resolution network, as in the benchmark.
    """

    scale: int | float = static(0.5)
    variant: str = static("paper")

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_strength("scale", self.scale, 0, 1, open_low=True)
        check_choice("variant", self.variant, VARIANTS)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b h2 w2 3"]:
        check_unit_images(images, channels=3)
        small, size = partial(_shrunk, scale=self.scale, variant=self.variant), images.shape[1:3]
        return computed(images, lambda x: resize_bilinear(small(x), size if self.variant == "paper" else FULL))


def _shrunk(images, scale, variant):
    return resize_bilinear(images, scaled_size(images, scale), antialias=variant == "paper")


def scaled_size(images: Images, scale: float) -> tuple[int, int]:
    """Return height and width times ``scale``, as float32 products, rounded down, at least 1.

    >>> scaled_size(jax.numpy.zeros((1, 100, 7, 3)), 0.1)
    (10, 1)
    """
    h, w = (max(1, int(np.float32(side) * np.float32(scale))) for side in images.shape[1:3])
    return h, w
