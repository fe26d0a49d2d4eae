"""Pictures of one size."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from jaxiqa.checks import check_size
from jaxiqa.data.pipeline import resize
from jaxiqa.data.split import Split


def resized(split: Split, size: tuple[int, int] | None) -> Split:
    """The same pictures at (height, width), bilinear and antialiased, 8-bit; None leaves them as they are.

    Raises:
        ValueError: ``split`` is none, or ``size`` is no pair of whole numbers of at least 1.

    >>> from jaxiqa.data import load
    >>> resized(load("builtin", size=(16, 16), train=1, val=1, test=1)["test"], (8, 12))[0]["image"].shape
    (8, 12, 3)
    """
    if not isinstance(split, Split):
        hint = f"; choose one of its splits, {', '.join(map(repr, split))}" if isinstance(split, dict) else ""
        raise ValueError(f"split is a {type(split).__name__}; expected a jaxiqa.data.Split{hint}")
    if size is not None:
        check_size("size", size)
    return split if size is None else replace(split, read=Resized(split.read, (int(size[0]), int(size[1]))))


@dataclass(frozen=True)
class Resized:
    """Reads pictures and resizes them."""

    read: Callable[[int], np.ndarray]
    size: tuple[int, int]

    def __call__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return resize(self.read(index), self.size)
