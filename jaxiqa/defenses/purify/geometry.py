"""Rotate by a random angle, crop at a random position, or turn by 180°."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import Number, check_key, check_side, check_strength, computed, keep_size_of
from jaxiqa.ops.geometry import rotate
from jaxiqa.ops.resize import resize_bilinear


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rotate:
    """Rotate all images about their centre by one random angle in ``[−limit, limit]``; nearest pixels, 0 outside.

    Args:
        limit: largest angle in degrees, from 0 to 180.

    Takes images ``b h w 3`` in [0, 1] and a key, returns images of the same size.

    Raises:
        ValueError: an option or the images are out of range, or the key is missing.

    >>> Rotate(limit=0.0)(jnp.full((1, 2, 3, 3), 0.5), jax.random.key(0)).mean().item()
    0.5

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541.
    """

    limit: Number = 15.0

    random: ClassVar[bool] = True
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_strength("limit", self.limit, 0, 180)

    def __call__(self, images: Images, key: PRNGKey) -> Images:
        check_unit_images(images, channels=3)
        check_key("rotate", key)
        return computed(images, lambda x: _turned(x, self.limit, key))


@jax.jit
def _turned(images, limit, key):
    return rotate(images, limit * jax.random.uniform(key, (), images.dtype, -1, 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Crop:
    """Crop a square at one random position of all images and resize it bilinearly to the input's size.

    Args:
        size: side of the square in pixels; images must not be smaller.
        keep_size: True: resize to the input's size; False: return the square; None: the variant decides.
        variant: ``"paper"`` keeps the size, ``"benchmark"`` returns the square, which the metric then scores.

    Takes images ``b h w 3`` in [0, 1] and a key, returns as many images.

    Raises:
        ValueError: an option or the images are out of range, or the key is missing.

    >>> images = jnp.zeros((1, 9, 14, 3))
    >>> Crop(5)(images, jax.random.key(0)).shape, Crop(5, keep_size=False)(images, jax.random.key(0)).shape
    ((1, 9, 14, 3), (1, 5, 5, 3))

    Reference: Guo et al., "Countering Adversarial Images using Input Transformations", arXiv:1711.00117.
    """

    size: int = static(128)
    keep_size: bool | None = static(None)
    variant: str = static("paper")

    random: ClassVar[bool] = True
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_side("size", self.size)
        keep_size_of(self)

    def __call__(self, images: Images, key: PRNGKey) -> Float[Array, "b h2 w2 3"]:
        check_unit_images(images, channels=3, minimum=self.size)
        check_key("crop", key)
        square = cropped(images, self.size, key)
        size = images.shape[1:3]
        return computed(square, lambda x: resize_bilinear(x, size)) if self.keep_size else square


@partial(jax.jit, static_argnames="size")
def cropped(images: Images, size: int, key: PRNGKey) -> Float[Array, "b size size 3"]:
    """Crop ``size × size`` pixels of all images at one random position, uniform over all possible positions.

    >>> cropped(jnp.arange(12.0).reshape(1, 2, 2, 3), 2, jax.random.key(0))[0, 0, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    b, h, w, c = images.shape
    top, left = jax.random.randint(key, (2,), 0, jnp.array([h, w]) - size + 1)
    return jax.lax.dynamic_slice(images, (0, top, left, 0), (b, size, size, c))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Flip:
    """Turn images by 180°: rows and columns in reverse order.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    >>> Flip()(jnp.array([[[[0.0, 0.1, 0.2]], [[0.7, 0.8, 0.9]]]]))[0, 0, 0].tolist()
    [0.699999988079071, 0.800000011920929, 0.8999999761581421]

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541.
    """

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3)
        return images[:, ::-1, ::-1]
