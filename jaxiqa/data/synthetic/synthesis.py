"""Scenes, what is done to them, and the label that follows: how the pictures of `builtin` come about."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import uniform_filter

from jaxiqa.data.synthetic.distortions import DISTORTIONS
from jaxiqa.data.synthetic.scenes import scene

PER_SCENE = 4
"""Pictures made from each scene."""

PRISTINE = 0.04
"""Share of pictures that are left as they are; the distortions share the rest evenly."""


def distorted_scenes(
    size: tuple[int, int], count: int, seed: tuple[int, ...]
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float32[np.ndarray, " n"], list[str]]:
    """Pictures, scores in [0, 100], and what was done to each, such as ``"blur-35"`` (strength in percent).

    >>> pictures, scores, kinds = distorted_scenes((20, 30), 5, (0,))
    >>> pictures.shape, scores.shape, len(kinds)
    ((5, 20, 30, 3), (5,), 5)
    """
    with ThreadPoolExecutor() as pool:  # SciPy's filters run outside Python's lock
        made = pool.map(partial(_from_scene, size, seed), range(-(-count // PER_SCENE)))
        pictures, scores, kinds = zip(*[picture for pictures in made for picture in pictures][:count], strict=True)
    return np.stack(pictures), np.asarray(scores, np.float32), list(kinds)


def _from_scene(size: tuple[int, int], seed: tuple[int, ...], number: int) -> list[tuple[np.ndarray, float, str]]:
    pristine = scene(np.random.default_rng((*seed, number)), size)
    kinds = [*DISTORTIONS, "pristine"]
    shares = [(1 - PRISTINE) / len(DISTORTIONS)] * len(DISTORTIONS) + [PRISTINE]
    made = []
    for variant in range(1, PER_SCENE + 1):  # not from 0: NumPy takes (seed, number, 0) for (seed, number), the scene's
        random = np.random.default_rng((*seed, number, variant))
        kind = random.choice(kinds, p=shares)
        strength = random.uniform()
        damaged = pristine if kind == "pristine" else DISTORTIONS[kind](pristine, strength, random)
        pixels = np.round(255 * np.clip(damaged, 0, 1)).astype(np.uint8)
        label = kind if kind == "pristine" else f"{kind}-{round(100 * strength):02d}"
        # Pristine too is compared as rounded, so that it scores 100 and not a hair less.
        reference = np.round(255 * pristine).astype(np.uint8)
        made.append((pixels, 100 * similarity(reference / np.float32(255), pixels / np.float32(255)), label))
    return made


def similarity(reference: Float[np.ndarray, "h w 3"], picture: Float[np.ndarray, "h w 3"]) -> float:
    """Structural similarity of all three channels at two scales: 1 for equal pictures, at least 0.

    SSIM (Wang et al., 2004) with a uniform 7×7 window, averaged over pixels and channels at full and at half
    resolution; their geometric mean, negative values counted as 0.

    >>> similarity(np.full((16, 16, 3), 0.5), np.full((16, 16, 3), 0.5))
    1.0
    """
    product = 1.0
    for _ in range(2):
        product *= max(_ssim(reference, picture), 0.0)
        reference, picture = _halved(reference), _halved(picture)
    return product**0.5


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, (7, 7, 1))

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return float(np.mean(luminance * structure))


def _halved(x: np.ndarray) -> np.ndarray:
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
