"""Fewer levels per colour channel."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import Number, check_strength, computed, identity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ColorQuantization:
    """Round every value to the nearest of n equally spaced levels: ``round((n − 1) x) / (n − 1)``, ties to even.

    Its gradient is zero. For an adaptive attack use ``bpda(purify, purify.surrogate)``: the surrogate is the identity,
    which the rounding equals on average.

    Args:
        levels: n, a whole number, at least 2.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    Raises:
        ValueError: an option or the images are out of range.

    >>> ColorQuantization(levels=3)(jnp.full((1, 1, 1, 3), 0.3))[0, 0, 0].tolist()
    [0.5, 0.5, 0.5]

    Reference: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks", arXiv:1704.01155.
    """

    levels: Number = 16

    random: ClassVar[bool] = False
    surrogate: ClassVar = staticmethod(identity)

    def __post_init__(self) -> None:
        check_strength("levels", self.levels, 2, whole=True)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3)
        return computed(images, lambda x: _quantize(x, self.levels))


@jax.jit
def _quantize(images, levels):
    steps = jnp.asarray(levels, images.dtype) - 1
    return jnp.round(images * steps) / steps
