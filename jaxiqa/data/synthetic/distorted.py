"""Distorted parts of photographs, without scores: as many different images as a distillation wants."""

from dataclasses import dataclass, replace

import numpy as np

from jaxiqa.core.checks import check_count
from jaxiqa.data.pipeline import resize
from jaxiqa.data.split import Split
from jaxiqa.data.synthetic.distortions import DISTORTIONS


@dataclass(frozen=True)
class Copies:
    """Reader of the copies of a split: copy ``i % count`` of image ``i // count``, the same each time."""

    split: Split
    count: int
    size: tuple[int, int] | None
    paired: bool = False

    def __call__(self, index: int) -> np.ndarray:
        image, random = self.split.read(index // self.count), np.random.default_rng((1, index))
        sides = np.array(image.shape[:2])
        if self.size:  # the largest part with these proportions
            sides = np.minimum(sides, sides[::-1] * np.array(self.size) / self.size[::-1])
        h, w = np.maximum(np.round(random.uniform(0.5, 1) * sides), 1).astype(int)
        top, left = random.integers(0, np.array(image.shape[:2]) - (h, w) + 1)
        image = resize(image[top : top + h, left : left + w], self.size or image.shape[:2])
        kind = str(random.choice(list(DISTORTIONS)))
        copy = image
        if random.uniform() >= 0.5:
            damaged = DISTORTIONS[kind](image / 255, random.uniform() ** 1.5, random)
            copy = np.round(255 * np.clip(damaged, 0, 1)).astype(np.uint8)
        return np.concatenate([copy, image], -1) if self.paired else copy


def distorted(split: Split, count: int, *, size: tuple[int, int] | None = None, paired: bool = False) -> Split:
    """Return ``count`` copies of each image: random parts, every second one with a distortion of random strength.

    The sides of a part are half to all of the image's; it is resized to ``size``, then distorted. The distortions are
    those of the data set builtin: blur, noise, JPEG, contrast, colour and resampling, more often weak than strong. The
    copies are made when they are read, and copy i is the same each time. They have no scores.

    Args:
        split: the photographs.
        count: copies per image, at least 1.
        size: (height, width); None: that of the image.
        paired: each copy has six channels: after its own, those of the part before the distortion, to compare with.

    Raises:
        ValueError: a count below 1.

    >>> from jaxiqa.data import load
    >>> copies = distorted(load("builtin", size=(16, 20), train=2, val=1, test=1)["train"], 3)
    >>> len(copies), copies[5]["image"].shape, copies.ids[1]
    (6, (16, 20, 3), 'train-0000-noise-68~1')
    """
    check_count("distorted", count, 1)
    names = tuple(f"{name}~{number}" for name in split.ids for number in range(count))
    return replace(split, ids=names, mos=None, read=Copies(split, count, size, paired), rows=(), regions=None)
