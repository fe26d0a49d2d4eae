"""Distortions of known strength, for images with computed labels. Each is ``(image, strength, random) -> image``.

Images are float ``h w 3`` in [0, 1]. Strength 0 hardly changes them; strength 1 destroys them.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def blur(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Blur by a Gaussian, σ from 0.6 to 3 pixels."""
    return gaussian_filter(image, (0.6 + 2.4 * strength,) * 2 + (0,), mode="reflect")


def noise(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise, σ from 0.02 to 0.2."""
    return image + (0.02 + 0.18 * strength) * random.normal(size=image.shape)


def jpeg(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Compress by JPEG, quality from 40 down to 4."""
    buffer = io.BytesIO()
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(40 - 36 * strength**0.5))
    return np.asarray(Image.open(buffer), np.float64) / 255


def contrast(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Reduce the contrast around the mean to 75 % down to 15 %."""
    mean = image.mean()
    return mean + (0.75 - 0.6 * strength) * (image - mean)


def colour(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Add chromatic noise: spots of a few pixels, without a change of brightness."""
    cast = gaussian_filter(random.normal(size=image.shape), (1.5, 1.5, 0), mode="wrap")
    cast -= cast.mean(2, keepdims=True)
    return image + (0.03 + 0.22 * strength) * cast / cast.std()


def resampling(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Shrink by a factor of 1.5 to 5 and enlarge by nearest neighbours, which gives blocks."""
    h, w = image.shape[:2]
    factor = 1.5 + 3.5 * strength
    small = (max(round(w / factor), 1), max(round(h / factor), 1))
    pixels = Image.fromarray(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8))
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
