"""Real-ESRGAN: super-resolution to four times the size."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.purifier import computed
from jaxiqa.ops.resize import resize_bilinear


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RealESRGAN:
    """Purify by a super-resolution network: ``clip(network(x), 0, 1)``, resized back to the size of the image.

    Args:
        network: ``b h w 3 -> b 4h 4w 3`` (or another multiple), a callable pytree, such as
            ``networks.load("real_esrgan", weights=networks.blend(general, wdn))`` of `jaxiqa.networks`. The blend of
            the two published checkpoints sets the strength of denoising (in the benchmark, a fifth of the first).
        keep_size: whether the result is resized back (bilinear, antialiased).
        variant: ``"paper"``, or ``"benchmark"``: the result keeps the network's size; ``keep_size`` is ignored.

    Takes images ``b h w 3`` in [0, 1], returns images; the key is not used. It is differentiable.

    Raises:
        ValueError: the images are out of range, or the size of the network's output is not a multiple of theirs.

    >>> images = jnp.full((1, 3, 5, 3), 0.5)
    >>> enlarge = lambda x: x.repeat(4, 1).repeat(4, 2)
    >>> RealESRGAN(enlarge)(images).shape, RealESRGAN(enlarge, variant="benchmark")(images).shape
    ((1, 3, 5, 3), (1, 12, 20, 3))

    Reference: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
    arXiv:2107.10833.
    """

    network: Any
    _: KW_ONLY
    keep_size: bool = static(True)
    variant: str = static("paper")

    random: ClassVar[bool] = False
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("paper", "benchmark"))
        object.__setattr__(self, "network", trained("network", self.network))

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Float[Array, "b h2 w2 3"]:
        del key
        check_unit_images(images, channels=3)
        return computed(images, lambda x: _drawn(self, x))


@jax.jit
def _drawn(purifier, images):
    drawn = purifier.network(images)
    b, height, width, c = images.shape
    factor = drawn.shape[1] // height
    if not factor or drawn.shape != (b, factor * height, factor * width, c):
        raise ValueError(
            f"network returned shape {drawn.shape} for images {images.shape}; expected a multiple of both sides"
        )
    drawn = jnp.clip(drawn, 0, 1)
    stays = purifier.variant == "benchmark" or not purifier.keep_size
    return drawn if stays else resize_bilinear(drawn, (height, width))
