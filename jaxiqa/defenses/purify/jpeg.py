"""JPEG compression, by Pillow's codec on the host."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import is_traced, static
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.purify.diffjpeg import DiffJPEG
from jaxiqa.defenses.purify.purifier import VARIANTS, Number, check_strength, computed


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JPEG:
    """Encode images as JPEG and decode them by Pillow (libjpeg): 4:2:0 chroma, standard tables.

    It runs on the host, with images in parallel threads; inside a compiled program, by a callback. It has no gradient;
    differentiation raises an error. For an adaptive attack use ``bpda(purify, purify.surrogate)``; the surrogate is
    `DiffJPEG` of the same quality. `DiffJPEG` gives the PSNR between the two.

    Args:
        quality: 1 to 100, a whole number.
        variant: conversion of pixels to bytes: ``"paper"`` rounds to nearest, ``"benchmark"`` rounds down.

    Takes images ``b h w 3`` in [0, 1], returns images of the same size; the key is not used.

    Raises:
        ValueError: an option or the images are out of range, or the call is differentiated.

    >>> images = jnp.linspace(0, 1, 8 * 9 * 3).reshape(1, 8, 9, 3)
    >>> bool(jnp.abs(JPEG(90)(images) - images).max() < 0.1)
    True

    Reference: Guo et al., "Countering Adversarial Images using Input Transformations", arXiv:1711.00117.
    """

    quality: Number = 50
    variant: str = static("paper")

    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, VARIANTS)
        check_strength("quality", self.quality, 1, 100, whole=True)

    @property
    def surrogate(self) -> DiffJPEG:
        return DiffJPEG(self.quality)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Images:
        check_unit_images(images, channels=3)
        quality = jnp.asarray(self.quality, jnp.float32)
        return computed(images, lambda x: _through_codec(x, quality, self.variant))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _through_codec(images, quality, variant):
    scaled = 255 * images
    pixels = (jnp.floor(scaled) if variant == "benchmark" else jnp.round(scaled)).astype(jnp.uint8)
    if is_traced(pixels) or is_traced(quality):
        result = jax.ShapeDtypeStruct(pixels.shape, pixels.dtype)
        decoded = jax.pure_callback(_on_host, result, pixels, quality, vmap_method="broadcast_all")
    else:  # without a callback, so that errors keep their type
        decoded = jnp.asarray(_on_host(pixels, quality))
    return decoded.astype(images.dtype) / 255


@_through_codec.defjvp
def _refuse(variant, primals, tangents):
    raise ValueError("jpeg has no gradient; use defenses.bpda(purify, purify.surrogate), or the purifier diffjpeg")


def _on_host(pixels, quality):
    """Code all images of ``*b h w 3``; the axes of ``quality`` are the first of these axes."""
    pixels, quality = np.asarray(pixels), np.asarray(quality)
    batch = pixels.shape[:-3]
    qualities = np.broadcast_to(quality.reshape(*quality.shape, *[1] * (len(batch) - quality.ndim)), batch)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter's lock
        decoded = pool.map(
            code, pixels.reshape(-1, *pixels.shape[-3:]), np.rint(qualities.ravel()).astype(int).tolist()
        )
        return np.stack(list(decoded)).reshape(pixels.shape)


def code(image: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """Encode and decode one image.

    Raises:
        ValueError: ``quality`` is outside 1 to 100 (a traced value is checked only here; Pillow would change it).

    >>> code(np.full((5, 6, 3), 128, np.uint8), 50)[0, 0].tolist()
    [128, 128, 128]
    """
    check_strength("quality", quality, 1, 100)
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
