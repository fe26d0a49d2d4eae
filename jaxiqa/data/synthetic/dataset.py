"""Synthetic images with computed labels, to try everything without a download.

**No human has rated these images.** The label is a full-reference similarity to the undistorted image. So a
correlation on them shows that the code works; it does not show how well a metric predicts human scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxiqa.core.checks import check_count, check_size
from jaxiqa.data.split import Split


@dataclass(frozen=True)
class Memory:
    """Reader of images in memory."""

    images: UInt8[np.ndarray, "n h w 3"]

    def __call__(self, index: int) -> np.ndarray:
        return self.images[index]


def builtin(
    source: Path | None = None,
    *,
    size: Sequence[int] = (96, 96),
    train: int = 960,
    val: int = 160,
    test: int = 240,
    seed: int = 0,
) -> dict[str, Split]:
    """Make procedural scenes with distortions of random strength; scores from 0 (unrecognisable) to 100 (undistorted).

    No human has rated them: the score is 100 times `jaxiqa.data.synthetic.synthesis.similarity` to the undistorted
    scene. Each scene gives four images, all in the same split. They are made in memory, in about 8 ms each at 96×96.

    Args:
        source: not used; every data set has this argument.
        size: (height, width), each at least 16.
        train, val, test: numbers of images, each at least 1.
        seed: random seed; same seed, same images.
    """
    check_size("size", size, 16)
    counts = {"train": train, "val": val, "test": test}
    for name, count in counts.items():
        check_count(name, count, 1)
    check_count("seed", seed, 0)
    return dict(_made((int(size[0]), int(size[1])), tuple(counts.items()), seed))


@lru_cache(maxsize=2)  # a run needs the same images several times
def _made(size: tuple[int, int], counts: tuple[tuple[str, int], ...], seed: int) -> dict[str, Split]:
    from jaxiqa.data.synthetic.synthesis import distorted_scenes

    splits = {}
    for part, (name, count) in enumerate(counts):
        images, mos, kinds = distorted_scenes(size, count, (seed, part))
        for shared in (images, mos):
            shared.setflags(write=False)
        ids = tuple(f"{name}-{index:04d}-{kind}" for index, kind in enumerate(kinds))
        splits[name] = Split(f"builtin/{name}", ids, mos, (0.0, 100.0), Memory(images))
    return splits
