"""Make the images of `builtin`: scenes, their distortions, and computed labels."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import uniform_filter

from jaxiqa.data.synthetic.distortions import DISTORTIONS
from jaxiqa.data.synthetic.scenes import scene

PER_SCENE = 4
"""Number of images made from each scene."""

PRISTINE = 0.04
"""Share of undistorted images; the distortions share the rest evenly."""


def distorted_scenes(
    size: tuple[int, int], count: int, seed: tuple[int, ...]
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float32[np.ndarray, " n"], list[str]]:
    """Make images, their scores in [0, 100], and their distortions, such as ``"blur-35"`` (strength in percent).

    >>> images, scores, kinds = distorted_scenes((20, 30), 5, (0,))
    >>> images.shape, scores.shape, len(kinds)
    ((5, 20, 30, 3), (5,), 5)
    """
    with ThreadPoolExecutor() as pool:  # SciPy's filters run outside Python's lock
        made = pool.map(partial(_from_scene, size, seed), range(-(-count // PER_SCENE)))
        images, scores, kinds = zip(*[image for images in made for image in images][:count], strict=True)
    return np.stack(images), np.asarray(scores, np.float32), list(kinds)


def _from_scene(size: tuple[int, int], seed: tuple[int, ...], number: int) -> list[tuple[np.ndarray, float, str]]:
    pristine = scene(np.random.default_rng((*seed, number)), size)
    kinds = [*DISTORTIONS, "pristine"]
    shares = [(1 - PRISTINE) / len(DISTORTIONS)] * len(DISTORTIONS) + [PRISTINE]
    made = []
    for variant in range(1, PER_SCENE + 1):  # not 0: (seed, number, 0) would equal the scene's seed
        random = np.random.default_rng((*seed, number, variant))
        kind = random.choice(kinds, p=shares)
        strength = random.uniform()
        damaged = pristine if kind == "pristine" else DISTORTIONS[kind](pristine, strength, random)
        pixels = np.round(255 * np.clip(damaged, 0, 1)).astype(np.uint8)
        label = kind if kind == "pristine" else f"{kind}-{round(100 * strength):02d}"
        # The reference is rounded too, so that an undistorted image scores exactly 100.
        reference = np.round(255 * pristine).astype(np.uint8)
        made.append((pixels, 100 * similarity(reference / np.float32(255), pixels / np.float32(255)), label))
    return made


def similarity(reference: Float[np.ndarray, "h w 3"], image: Float[np.ndarray, "h w 3"]) -> float:
    """Compute the structural similarity of all three channels at two scales: 1 for equal images, at least 0.

    It is the geometric mean of SSIM (Wang et al., 2004) at full and at half resolution, with a uniform 7×7 window and
    averaged over pixels and channels; negative values count as 0.

    >>> similarity(np.full((16, 16, 3), 0.5), np.full((16, 16, 3), 0.5))
    1.0
    """
    product = 1.0
    for _ in range(2):
        product *= max(_ssim(reference, image), 0.0)
        reference, image = _halved(reference), _halved(image)
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
