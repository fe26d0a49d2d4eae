"""A filter network in front of the metric."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import check_drawn, computed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Filter:
    """Purify by a filter network: ``clip(network(x), 0, 1)``. FCN is trained to remove one attack; DnCNN is a denoiser.

    Args:
        network: ``b h w 3 -> b h w 3``, a callable pytree: ``jaxiqa.networks.load`` of "fcn" or "dncnn", with the
            weights of the authors or of ``jaxiqa train-filter``.

    Takes images ``b h w 3`` in [0, 1], returns images; the key is not used. It is differentiable.

    Raises:
        ValueError: the images are out of range, or the network returned another shape.

    >>> images = jnp.full((1, 3, 5, 3), 0.5)
    >>> print(Filter(lambda x: 3 * x)(images).max())
    1.0

    Reference: FCN: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541. DnCNN: Zhang et al., "Beyond a
    Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising", arXiv:1608.03981; as a defense: Salman et
    al., "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", arXiv:2003.01908.
    """

    network: Any

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", trained("network", self.network))

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        del key
        check_unit_images(images, channels=3)
        return computed(images, lambda x: _filtered(self.network, x))


@jax.jit
def _filtered(network, images):
    return jnp.clip(check_drawn(network(images), images), 0, 1)
