"""Purifiers, which clean images before a metric scores them: ``purify(images, key) -> images``.

`PURIFIERS` maps a name to a purifier class: a frozen dataclass whose fields are the options. `PRESETS` maps it to the
strengths that the defense benchmark ("Guardians of Image Quality", arXiv:2408.01541) published, weakest first.

All images of a call get the same random numbers. So a batch equals its images one by one, and an image and its attacked
copy can be compared under one draw. `random` tells whether a purifier uses random numbers. `surrogate` is what an
adaptive attack differentiates (`jaxiqa.defenses.bpda`) if the purifier has no useful gradient; otherwise it is None.
"""

from typing import Any

from jaxiqa.core.registry import build
from jaxiqa.defenses.purify.blur import GaussianBlur, MedianBlur, Unsharp
from jaxiqa.defenses.purify.color_quantization import ColorQuantization
from jaxiqa.defenses.purify.diffjpeg import DiffJPEG
from jaxiqa.defenses.purify.diffpure import DiffPure
from jaxiqa.defenses.purify.disco import DISCO
from jaxiqa.defenses.purify.filter import Filter
from jaxiqa.defenses.purify.geometry import Crop, Flip, Rotate
from jaxiqa.defenses.purify.jpeg import JPEG
from jaxiqa.defenses.purify.mprnet import MPRNet
from jaxiqa.defenses.purify.random_noise import RandomNoise
from jaxiqa.defenses.purify.real_esrgan import RealESRGAN
from jaxiqa.defenses.purify.resize import Resize, Upscale

PURIFIERS: dict[str, type] = {
    "jpeg": JPEG,
    "diffjpeg": DiffJPEG,
    "color_quantization": ColorQuantization,
    "resize": Resize,
    "upscale": Upscale,
    "rotate": Rotate,
    "crop": Crop,
    "flip": Flip,
    "gaussian_blur": GaussianBlur,
    "median_blur": MedianBlur,
    "unsharp": Unsharp,
    "random_noise": RandomNoise,
    "mprnet": MPRNet,
    "real_esrgan": RealESRGAN,
    "diffpure": DiffPure,
    "disco": DISCO,
    "fcn": Filter,
    "dncnn": Filter,
}


def _each(option: str, *values: int | float) -> tuple[dict[str, Any], ...]:
    return tuple({option: value} for value in values)


PRESETS: dict[str, tuple[dict[str, Any], ...]] = {name: ({},) for name in PURIFIERS} | {
    "jpeg": _each("quality", 90, 70, 50, 30, 10),
    "diffjpeg": _each("quality", 90, 70, 50, 30, 10),
    "color_quantization": _each("levels", 25, 20, 16, 5, 2),
    "resize": _each("scale", 0.9, 0.75, 0.5, 0.25, 0.1),
    "upscale": _each("scale", 0.9, 0.75, 0.5, 0.25, 0.1),
    "rotate": _each("limit", 10.0, 15.0, 20.0, 30.0, 50.0),
    "crop": _each("size", 288, 256, 128, 64, 32),
    "gaussian_blur": _each("kernel_size", 3, 5, 7, 9, 11),
    "median_blur": _each("kernel_size", 3, 5, 7, 9, 11),
    "unsharp": _each("kernel_size", 3, 5, 7, 9, 11),
    "random_noise": _each("sigma", 0.01, 0.025, 0.05, 0.075, 0.1),
    "diffpure": _each("steps", 5, 10, 20, 30, 50),
}

__all__ = [
    "DISCO",
    "JPEG",
    "PRESETS",
    "PURIFIERS",
    "ColorQuantization",
    "Crop",
    "DiffJPEG",
    "DiffPure",
    "Filter",
    "Flip",
    "GaussianBlur",
    "MPRNet",
    "MedianBlur",
    "RandomNoise",
    "RealESRGAN",
    "Resize",
    "Rotate",
    "Unsharp",
    "Upscale",
    "make",
]


def make(name: str, **options: Any) -> Any:
    """Create a purifier by name.

    Args:
        name: a key of `PURIFIERS`.
        **options: fields of the purifier.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, or a value is out of range; the message
            lists what is allowed.

    >>> make("jpeg", quality=30).quality
    30
    >>> make("resize", size=0.5)
    Traceback (most recent call last):
    ValueError: option of resize='size' is not allowed; choose from 'scale', 'keep_size', 'variant'
    """
    return build(PURIFIERS, "purifier", name, options)
