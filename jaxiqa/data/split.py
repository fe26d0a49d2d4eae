"""A labelled or unlabelled set of pictures with random access."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.checks import check_number
from jaxiqa.data.decode import read_image


@dataclass(frozen=True)
class Split:
    """``split[i] -> {"image": uint8 h w 3, "mos": float32, "id": str}``, without ``mos`` where nobody scored.

    It can be pickled, for readers in other processes.

    Attributes:
        name: data set and part, such as ``"clive/train"``.
        ids: one unique name per picture.
        mos: one score per picture, float32, higher is better, or None.
        mos_range: lowest and highest score the data set's scale allows, or None.
        read: index -> decoded picture.
        rows: the place of each picture in its table, for messages; empty where there is no table.
    """

    name: str
    ids: tuple[str, ...]
    mos: np.ndarray | None
    mos_range: tuple[float, float] | None
    read: Callable[[int], np.ndarray]
    rows: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = {} if self.mos is None else {"mos": np.float32(self.mos[index])}
        return {"image": self.read(index), "id": self.ids[index], **label}

    def select(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """The pictures at these positions, in this order."""
        indices = np.asarray(indices)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            mos=None if self.mos is None else self.mos[indices],
            read=Selected(self.read, tuple(int(i) for i in indices)),
            rows=tuple(self.rows[i] for i in indices) if self.rows else (),
        )

    def take(self, limit: int | None) -> "Split":
        """The first ``limit`` pictures, at least 1; all of them for None."""
        if limit is None:
            return self
        check_number("limit", limit, 1)
        return self.select(range(min(limit, len(self))))


@dataclass(frozen=True)
class Selected:
    """Reads through a list of positions."""

    read: Callable[[int], np.ndarray]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> np.ndarray:
        return self.read(self.indices[index])


@dataclass(frozen=True)
class Files:
    """Reads picture files."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])
