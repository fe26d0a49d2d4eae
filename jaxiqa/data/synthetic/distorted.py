"""Distorted copies of photographs, without scores: as many different images as a distillation wants."""

from dataclasses import dataclass, replace

import numpy as np

from jaxiqa.core.checks import check_count
from jaxiqa.data.split import Split
from jaxiqa.data.synthetic.distortions import DISTORTIONS


@dataclass(frozen=True)
class Copies:
    """Reader of the distorted copies of a split: copy ``i % count`` of image ``i // count``, the same each time."""

    split: Split
    count: int

    def __call__(self, index: int) -> np.ndarray:
        image, random = self.split.read(index // self.count), np.random.default_rng((1, index))
        kind = str(random.choice([*DISTORTIONS, "none"]))
        strength = random.uniform()
        if kind == "none":
            return image
        damaged = DISTORTIONS[kind](image / 255, strength, random)
        return np.round(255 * np.clip(damaged, 0, 1)).astype(np.uint8)


def distorted(split: Split, count: int) -> Split:
    """Return ``count`` copies of each image with a random distortion of random strength; one in seven has none.

    The distortions are those of the data set builtin: blur, noise, JPEG, contrast, colour and resampling. The copies
    are made when they are read, and copy i is the same each time. They have no scores.

    Args:
        split: the photographs.
        count: copies per image, at least 1.

    Raises:
        ValueError: a count below 1.

    >>> from jaxiqa.data import load
    >>> copies = distorted(load("builtin", size=(16, 20), train=2, val=1, test=1)["train"], 3)
    >>> len(copies), copies[5]["image"].shape, copies.ids[1]
    (6, (16, 20, 3), 'train-0000-noise-68~1')
    """
    check_count("distorted", count, 1)
    names = tuple(f"{name}~{number}" for name in split.ids for number in range(count))
    return replace(split, ids=names, mos=None, read=Copies(split, count), rows=(), regions=None)
