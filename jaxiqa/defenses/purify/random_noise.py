"""Gaussian noise."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import Number, check_key, check_strength, computed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RandomNoise:
    """Add the same Gaussian noise to all images: ``clip(x + σ n, 0, 1)``.

    Args:
        sigma: standard deviation σ in [0, 1] pixel units, at least 0.

    Takes images ``b h w 3`` in [0, 1] and a key, returns images of the same size.

    Raises:
        ValueError: an option or the images are out of range, or the key is missing.

    >>> noisy = RandomNoise(sigma=0.1)(jnp.full((2, 40, 50, 3), 0.5), jax.random.key(0))
    >>> bool(abs(noisy.std() - 0.1) < 0.005), bool((noisy[0] == noisy[1]).all())
    (True, True)

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541.
    """

    sigma: Number = 0.01

    random: ClassVar[bool] = True
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_strength("sigma", self.sigma, 0)

    def __call__(self, images: Images, key: PRNGKey) -> Images:
        check_unit_images(images, channels=3)
        check_key("random_noise", key)
        return computed(images, lambda x: _noisy(x, self.sigma, key))


@jax.jit
def _noisy(images, sigma, key):
    return jnp.clip(images + sigma * jax.random.normal(key, images.shape[1:], images.dtype), 0, 1)
