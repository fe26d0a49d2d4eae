"""Distortions of known strength, for pictures with computed labels. Each is ``(picture, strength, random) -> picture``.

Pictures are float ``h w 3`` in [0, 1]; strength 0 leaves them nearly alone and 1 ruins them.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur, σ from 0.6 to 3 pixels."""
    return gaussian_filter(picture, (0.6 + 2.4 * strength,) * 2 + (0,), mode="reflect")


def noise(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """White Gaussian noise, σ from 0.02 to 0.2."""
    return picture + (0.02 + 0.18 * strength) * random.normal(size=picture.shape)


def jpeg(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """JPEG, quality from 40 down to 4."""
    buffer = io.BytesIO()
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(40 - 36 * strength**0.5))
    return np.asarray(Image.open(buffer), np.float64) / 255


def contrast(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Contrast reduced to between 75 % and 15 %, around the mean."""
    mean = picture.mean()
    return mean + (0.75 - 0.6 * strength) * (picture - mean)


def colour(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Chromatic noise: blotches of a few pixels, brightness untouched."""
    cast = gaussian_filter(random.normal(size=picture.shape), (1.5, 1.5, 0), mode="wrap")
    cast -= cast.mean(2, keepdims=True)
    return picture + (0.03 + 0.22 * strength) * cast / cast.std()


def resampling(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Shrunk by up to 5 and enlarged again with nearest neighbours: blocks."""
    h, w = picture.shape[:2]
    factor = 1.5 + 3.5 * strength
    small = (max(round(w / factor), 1), max(round(h / factor), 1))
    pixels = Image.fromarray(np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    pixels = pixels.resize(small, Image.Resampling.BOX).resize((w, h), Image.Resampling.NEAREST)
    return np.asarray(pixels, np.float64) / 255


DISTORTIONS: dict[str, Distortion] = {
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "contrast": contrast,
    "colour": colour,
    "resampling": resampling,
}
