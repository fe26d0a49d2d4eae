"""A set of images, with or without scores, with random access."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jaxiqa.core.checks import check_count
from jaxiqa.data.decode import read_image
from jaxiqa.data.regions import Regions


@dataclass(frozen=True, repr=False)
class Split:
    """A set of images: ``split[i] -> {"image": uint8 h w 3, "mos": float32, "id": str}``; no ``mos`` without scores.

    It can be pickled, for readers in other processes.

    Attributes:
        name: data set and part, such as ``"clive/train"``.
        ids: one unique name per image.
        mos: one score per image, float32, higher is better, or None.
        mos_range: lowest and highest score of the scale of the data set, or None.
        read: index -> decoded image.
        rows: row of each image in its table, for messages; empty without a table.
        regions: scored regions of each image, or None.
    """

    name: str
    ids: tuple[str, ...]
    mos: np.ndarray | None
    mos_range: tuple[float, float] | None
    read: Callable[[int], np.ndarray]
    rows: tuple[str, ...] = ()
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = {} if self.mos is None else {"mos": np.float32(self.mos[index])}
        return {"image": self.read(index), "id": self.ids[index], **label}

    def __repr__(self) -> str:
        scores = "no scores"
        if self.mos is not None and len(self):
            scores = f"scores {self.mos.min():g} to {self.mos.max():g}"
        scale = f" on a scale of {self.mos_range[0]:g} to {self.mos_range[1]:g}" if self.mos_range else ""
        return f"Split({self.name!r}, {len(self)} images, {scores}{scale})"

    def images(self, indices: "slice | Sequence[int] | np.ndarray" = slice(None)) -> Float32[np.ndarray, "b h w 3"]:
        """Return the images at these positions as a batch in [0, 1]; all images by default.

        Raises:
            ValueError: the images have different sizes; use `jaxiqa.data.resized`.

        >>> from jaxiqa.data import load
        >>> split = load("builtin", size=(16, 20), train=8, val=4, test=4)["test"]
        >>> split
        Split('builtin/test', 4 images, scores 31.1553 to 100 on a scale of 0 to 100)
        >>> split.images([0, 2]).shape, split.images(slice(3)).dtype
        ((2, 16, 20, 3), dtype('float32'))
        """
        chosen = range(len(self))[indices] if isinstance(indices, slice) else self._positions(indices).tolist()
        if not len(chosen):
            raise ValueError(f"{self.name}: indices={indices!r} selects none of {len(self)} images")
        pixels = [self.read(index) for index in chosen]
        sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in pixels})
        if len(sizes) != 1:
            raise ValueError(
                f"{self.name}: the images have {len(sizes)} sizes ({', '.join(sizes[:5])}); expected one size: "
                "use jaxiqa.data.resized(split, (height, width))"
            )
        return np.stack(pixels).astype(np.float32) / 255

    def select(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Return a split of the images at these positions, in this order."""
        indices = self._positions(indices)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            mos=None if self.mos is None else self.mos[indices],
            read=Selected(self.read, tuple(int(i) for i in indices)),
            rows=tuple(self.rows[i] for i in indices) if self.rows else (),
            regions=self.regions and self.regions.select(indices),
        )

    def _positions(self, indices: Any) -> np.ndarray:
        """Return positions as integers; raise an error for invalid ones."""
        found = np.atleast_1d(np.asarray(indices))
        if found.dtype.kind not in "iu" and found.size:
            raise ValueError(f"indices are of type {found.dtype}; give positions (of a mask: np.flatnonzero(mask))")
        found = found.astype(int)
        if outside := [int(i) for i in found if not -len(self) <= i < len(self)]:
            raise IndexError(f"{self.name}: there is no image {outside[0]}; it has {len(self)} images")
        return found

    def take(self, limit: int | None) -> "Split":
        """Return a split of the first ``limit`` images (at least 1); None: all images."""
        if limit is None:
            return self
        check_count("limit", limit, 1)
        return self.select(range(min(limit, len(self))))


@dataclass(frozen=True)
class Selected:
    """Reader of the images at selected positions."""

    read: Callable[[int], np.ndarray]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> np.ndarray:
        return self.read(self.indices[index])


@dataclass(frozen=True)
class Files:
    """Reader of image files."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])
