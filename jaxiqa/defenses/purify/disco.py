"""DISCO: compute the image again, pixel by pixel, from local features trained to give clean images."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import check_size, computed
from jaxiqa.ops.resize import resize_bilinear


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DISCO:
    """Purify by a network: ``clip(network(x, size), 0, 1)``.

    Args:
        network: ``(b h w 3, (height, width)) -> b height width 3``, a callable pytree, such as
            ``jaxiqa.networks.load("disco", weights=...)``. This network computes a few rows at a time, each a
            checkpoint, so that memory is bounded with and without gradients.
        size: (height, width) of the network's output; None: the size of the image.
        keep_size: whether the result is resized back to the size of the image (bilinear, antialiased).
        variant: ``"paper"``, or ``"benchmark"``: the result has 299×299 pixels; the other options are ignored.

    Takes images ``b h w 3`` in [0, 1], returns images; the key is not used. It is differentiable, with the same
    numbers.

    Raises:
        ValueError: an option or the images are out of range, or the network returned another shape.

    >>> images = jnp.full((1, 3, 5, 3), 0.5)
    >>> blank = lambda x, size: jnp.ones((len(x), *size, 3))
    >>> DISCO(blank)(images).shape, DISCO(blank, size=(7, 4), keep_size=False)(images).shape
    ((1, 3, 5, 3), (1, 7, 4, 3))

    Reference: Ho and Vasconcelos, "DISCO: Adversarial Defense with Local Implicit Functions", arXiv:2212.05630.
    """

    network: Any
    _: KW_ONLY
    size: tuple[int, int] | None = static(None)
    keep_size: bool = static(True)
    variant: str = static("paper")

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("paper", "benchmark"))
        check_size("size", self.size)
        object.__setattr__(self, "network", trained("network", self.network))

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b h2 w2 3"]:
        del key
        check_unit_images(images, channels=3)
        return computed(images, lambda x: _drawn(self, x))


@jax.jit
def _drawn(purifier, images):
    own, as_run = images.shape[1:3], purifier.variant == "benchmark"
    size = (299, 299) if as_run else purifier.size or own
    drawn = purifier.network(images, size)
    if drawn.shape != (len(images), *size, 3):
        raise ValueError(
            f"network returned shape {drawn.shape} for images {images.shape} and size {size}; "
            f"expected {(len(images), *size, 3)}"
        )
    drawn = jnp.clip(drawn, 0, 1)
    return drawn if as_run or not purifier.keep_size else resize_bilinear(drawn, own)
