"""JPEG compression, by Pillow's codec on the host."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.arguments import check_pictures, is_traced
from jaxiqa.checks import check_choice, check_number
from jaxiqa.defenses.purify.diffjpeg import DiffJPEG
from jaxiqa.defenses.purify.purifier import VARIANTS, Number
from jaxiqa.types import Images, PRNGKey


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JPEG:
    """Images coded as JPEG and decoded again by Pillow, that is libjpeg: 4:2:0 chroma, standard tables.

    Runs on the host, pictures side by side on its threads, and inside a compiled program through a callback. It has
    no gradient and refuses to be differentiated: give an adaptive attack ``bpda(purify, purify.surrogate)``, whose
    surrogate is `DiffJPEG` of the same quality.

    The two agree: PSNR between their results is stated in `DiffJPEG`.

    Args:
        quality: 1 to 100, a whole number.
        variant: how pixels become bytes: ``"paper"`` rounds, ``"benchmark"`` cuts off what follows the point.

    Calling it takes images ``b h w 3`` in [0, 1] and returns as many of the same size. The key is not used.

    Raises:
        ValueError: an option or the images are outside what is stated here, or a gradient was asked for.

    >>> images = jnp.linspace(0, 1, 8 * 9 * 3).reshape(1, 8, 9, 3)
    >>> bool(jnp.abs(JPEG(90)(images) - images).max() < 0.1)
    True

    Reference: Guo et al., arXiv 1711.00117.
    """

    quality: Number = 50
    variant: str = field(default="paper", metadata={"static": True})

    random: ClassVar[bool] = False

    def __post_init__(self):
        check_choice("variant", self.variant, VARIANTS)
        if isinstance(self.quality, int | float):
            check_number("quality", self.quality, 1, 100)

    @property
    def surrogate(self) -> DiffJPEG:
        return DiffJPEG(self.quality)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_pictures(images, channels=3)
        return _through_codec(images, jnp.asarray(self.quality, jnp.float32), self.variant)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _through_codec(images, quality, variant):
    codec = partial(_on_host, np.floor if variant == "benchmark" else np.rint)
    if not is_traced(images) and not is_traced(quality):  # no callback, so that its errors are its own
        return jnp.asarray(codec(images, quality))
    result = jax.ShapeDtypeStruct(images.shape, images.dtype)
    return jax.pure_callback(codec, result, images, quality, vmap_method="broadcast_all")


@_through_codec.defjvp
def _refuse(variant, primals, tangents):
    raise ValueError("jpeg has no gradient; use defenses.bpda(purify, purify.surrogate), or the purifier diffjpeg")


def _on_host(whole, images, quality):
    """All pictures of ``*b h w 3``, whose quality may have the first of these axes."""
    images, quality = np.asarray(images), np.asarray(quality)
    batch = images.shape[:-3]
    pictures = whole(255 * images).astype(np.uint8).reshape(-1, *images.shape[-3:])
    quality = quality.reshape(*quality.shape, *[1] * (len(batch) - quality.ndim))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of the interpreter's lock
        decoded = list(pool.map(code, pictures, np.broadcast_to(quality, batch).ravel().astype(int).tolist()))
    return (np.stack(decoded).reshape(images.shape) / 255).astype(images.dtype)


def code(picture: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """One picture through the codec.

    >>> code(np.full((5, 6, 3), 128, np.uint8), 50)[0, 0].tolist()
    [128, 128, 128]
    """
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
