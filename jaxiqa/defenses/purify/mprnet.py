"""MPRNet: a large restoration network in front of the metric, trained to remove camera noise."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import check_drawn, computed

MULTIPLE = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MPRNet:
    """Purify by a network: ``clip(network(x), 0, 1)``; images are padded by reflection to multiples of 8.

    The padding is at the bottom and on the right; it is cut off again.

    Args:
        network: ``b h w 3 -> b h w 3``, a callable pytree, such as
            ``jaxiqa.networks.load("mprnet", weights=...)``.

    Takes images ``b h w 3`` in [0, 1] of any size, returns images; the key is not used. It is differentiable.

    Raises:
        ValueError: the images are out of range, or the network returned another shape.

    >>> images = jnp.full((1, 3, 5, 3), 0.5)
    >>> sizes = []
    >>> purified = MPRNet(lambda x: sizes.append(x.shape) or x)(images)
    >>> purified.shape, sizes
    ((1, 3, 5, 3), [(1, 8, 8, 3)])

    Reference: Zamir et al., "Multi-Stage Progressive Image Restoration", arXiv:2102.02808.
    """

    network: Any

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", trained("network", self.network))

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        del key
        check_unit_images(images, channels=3)
        return computed(images, lambda x: _restored(self.network, x))


@jax.jit
def _restored(network, images):
    height, width = images.shape[1:3]
    padding = ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0))
    padded = jnp.pad(images, padding, mode="reflect")
    return jnp.clip(check_drawn(network(padded), padded)[:, :height, :width], 0, 1)
