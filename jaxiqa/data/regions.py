"""Scored regions of images: boxes in the image, each with a label of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8


class TableRegions(NamedTuple):
    """The regions of one image, as a row of a table gives them."""

    size: tuple[float, float]
    """(height, width) of the image that the boxes are for, in pixels."""
    boxes: Sequence[tuple[float, float, float, float]]
    """Left, top, right and bottom in pixels; right and bottom are the ends, so that right - left is the width."""
    mos: Sequence[float]


@dataclass(frozen=True)
class Regions:
    """The regions of all images of a split, equally many for each image.

    Attributes:
        boxes: ``n r 4``, left, top, right and bottom as shares of the width and the height, so that resizing does not
            change them. float64: in pixels they are then exact.
        mos: ``n r``, in the unit of the scores of images, float32.
    """

    boxes: Float64[np.ndarray, "n r 4"]
    mos: Float32[np.ndarray, "n r"]

    def select(self, indices: Sequence[int] | np.ndarray) -> "Regions":
        """Return the regions of the images at these positions."""
        return Regions(self.boxes[indices], self.mos[indices])

    def pixels(
        self, index: int, size: tuple[int, int], *, mirrored: bool = False, inverted: bool = False
    ) -> Float32[np.ndarray, "r 4"]:
        """Return the boxes of an image in pixels, if it is shown at a size (height, width), mirrored or upside down.

        >>> regions = Regions(np.array([[[0.0, 0.5, 0.25, 1.0]]]), np.zeros((1, 1), np.float32))
        >>> regions.pixels(0, (20, 40)).tolist(), regions.pixels(0, (20, 40), mirrored=True).tolist()
        ([[0.0, 10.0, 10.0, 20.0]], [[30.0, 10.0, 40.0, 20.0]])
        """
        height, width = size
        left, top, right, bottom = (self.boxes[index] * (width, height, width, height)).T
        if mirrored:
            left, right = width - right, width - left
        if inverted:
            top, bottom = height - bottom, height - top
        return np.stack([left, top, right, bottom], axis=1).astype(np.float32)


def from_table(rows: Sequence[TableRegions]) -> Regions:
    """Return the regions of a split; `region_fault` has accepted every row.

    >>> from_table([TableRegions((10, 20), [(0, 5, 5, 10)], [3.0])]).boxes.tolist()
    [[[0.0, 0.5, 0.25, 1.0]]]
    """
    sides = np.array([(width, height, width, height) for (height, width), _, _ in rows], np.float64)
    boxes = np.array([row.boxes for row in rows], np.float64)
    return Regions(boxes / sides[:, None], np.array([row.mos for row in rows], np.float32))


def joined(found: Sequence[tuple[Regions | None, int]]) -> Regions | None:
    """Return the regions of images from several splits, given as pairs (regions of a split, position); None for none.

    Raises:
        ValueError: some splits have regions and others have none.
    """
    rows = [(regions.boxes[index], regions.mos[index]) for regions, index in found if regions]
    if not rows:
        return None
    if len(rows) < len(found):
        raise ValueError(f"{len(rows)} of {len(found)} images have labels of regions; expected all or none")
    return Regions(np.stack([boxes for boxes, _ in rows]), np.stack([mos for _, mos in rows]))


def region_fault(row: TableRegions, mos_range: tuple[float, float] | None) -> str | None:
    """Return why these are not scored regions inside the image, or None.

    >>> region_fault(TableRegions((10, 20), [(0, 5, 25, 10)], [3.0]), None)
    'has region 1 from (0, 5) to (25, 10); expected 0 <= left < right <= 20 and 0 <= top < bottom <= 10'
    """
    (height, width), (low, high) = row.size, mos_range or (-np.inf, np.inf)
    for number, ((left, top, right, bottom), mos) in enumerate(zip(row.boxes, row.mos, strict=True), 1):
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            return (
                f"has region {number} from ({left:g}, {top:g}) to ({right:g}, {bottom:g}); "
                f"expected 0 <= left < right <= {width:g} and 0 <= top < bottom <= {height:g}"
            )
        if not (np.isfinite(mos) and low <= mos <= high):
            allowed = f"a number in [{low}, {high}]" if mos_range else "a finite number"
            return f"has region {number} with the score {mos:g}; expected {allowed}"
    return None


@dataclass(frozen=True)
class OfSize:
    """Reader of images whose sizes a table gives, since its boxes are in pixels of that size."""

    read: Callable[[int], np.ndarray]
    ids: tuple[str, ...]
    sizes: tuple[tuple[float, float], ...]

    def __call__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        pixels = self.read(index)
        if pixels.shape[:2] != self.sizes[index]:
            (h, w), (height, width) = pixels.shape[:2], self.sizes[index]
            raise ValueError(f"{self.ids[index]} is {w}x{h}, but the boxes of its regions are for {width:g}x{height:g}")
        return pixels
