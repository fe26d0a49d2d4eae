"""Made-up pictures with computed labels: enough to try everything without a download.

**No human has rated these pictures.** The label is a full-reference similarity to the undistorted picture, so a
correlation reached here says that the machinery works, and nothing about how well a metric predicts what people see.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from scipy.ndimage import uniform_filter

from jaxiqa.checks import check_number
from jaxiqa.data.distortions import DISTORTIONS
from jaxiqa.data.scenes import scene
from jaxiqa.data.split import Split

PER_SCENE = 4
"""Pictures made from each scene; a scene never appears in two splits."""


@dataclass(frozen=True)
class Memory:
    """Reads pictures that are held in memory."""

    pictures: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.pictures[index]


@lru_cache(maxsize=2)  # a run asks for the same pictures several times
def builtin(
    *, size: tuple[int, int] = (96, 96), train: int = 960, val: int = 160, test: int = 240, seed: int = 0
) -> dict[str, Split]:
    """Procedural scenes, distorted at random strength; scores from 0 (unrecognisable) to 100 (untouched).

    Args:
        size: (height, width), each at least 16.
        train, val, test: numbers of pictures.
        seed: same seed, same pictures.
    """
    for side in size:
        check_number("size", side, 16)
    splits = {}
    for part, (name, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        check_number(name, count, 1)
        with ThreadPoolExecutor() as pool:  # SciPy's filters run outside Python's lock
            made = pool.map(partial(_from_scene, size, (seed, part)), range(-(-count // PER_SCENE)))
            pictures, mos, kinds = zip(*(picture for pictures in made for picture in pictures), strict=True)
        ids = tuple(f"{name}-{index:04d}-{kind}" for index, kind in enumerate(kinds[:count]))
        scores = np.asarray(mos[:count], np.float32)
        splits[name] = Split(f"builtin/{name}", ids, scores, (0.0, 100.0), Memory(np.stack(pictures[:count])))
    return splits


def _from_scene(size: tuple[int, int], seed: tuple[int, int], number: int) -> list[tuple[np.ndarray, float, str]]:
    """The pictures made from one scene, their labels, and what was done to them."""
    pristine = scene(np.random.default_rng((*seed, number)), size)
    made = []
    for variant in range(PER_SCENE):
        random = np.random.default_rng((*seed, number, variant))
        kind = random.choice([*DISTORTIONS, "pristine"], p=[0.16] * len(DISTORTIONS) + [0.04])
        strength = random.uniform()
        damaged = pristine if kind == "pristine" else DISTORTIONS[kind](pristine, strength, random)
        pixels = np.round(255 * np.clip(damaged, 0, 1)).astype(np.uint8)
        label = kind if kind == "pristine" else f"{kind}-{round(100 * strength):02d}"
        made.append((pixels, 100 * similarity(pristine, pixels / np.float32(255)), label))
    return made


def similarity(reference: np.ndarray, picture: np.ndarray) -> float:
    """Structural similarity of all three channels at two scales, pooled: 1 for equal pictures, at least 0.

    SSIM (Wang et al., 2004) with a uniform 7×7 window, averaged over pixels and channels at full and at half
    resolution; their geometric mean, negative values counted as 0.

    >>> float(similarity(np.full((16, 16, 3), 0.5), np.full((16, 16, 3), 0.5)))
    1.0
    """
    values = []
    for _ in range(2):
        values.append(max(_ssim(reference, picture), 0.0))
        reference, picture = (x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2] for x in (reference, picture))
        reference, picture = (
            (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4 for x in (reference, picture)
        )
    return float(np.sqrt(values[0] * values[1]))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    def mean(x):
        return uniform_filter(x, (7, 7, 1))

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return float(np.mean(luminance * structure))
