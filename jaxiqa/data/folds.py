"""Cross-validation: every image is in the test part of one fold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxiqa.core.checks import check_count
from jaxiqa.data.regions import joined
from jaxiqa.data.split import Split

VALIDATION = 8
"""One of this many images outside of a fold decides the best epoch."""


def fold(splits: Mapping[str, Split], folds: int, number: int) -> dict[str, Split]:
    """Return the splits of one fold: its images as ``test``, one in 8 of the others as ``val``, the rest as ``train``.

    All images of ``splits`` are put together, sorted by name and shuffled in an order that does not depend on the fold,
    so the test parts of all folds are disjoint and contain every image once. The images that decide the best epoch are
    not test images.

    Args:
        splits: the splits of a data set.
        folds: number of folds, at least 2.
        number: which fold, from 0 on.

    Raises:
        ValueError: a number out of range, two images of one name, or images without scores.

    >>> from jaxiqa.data import load
    >>> splits = load("builtin", size=(16, 16), train=20, val=2, test=3)
    >>> {part: len(split) for part, split in fold(splits, 5, 0).items()}
    {'train': 17, 'val': 3, 'test': 5}
    """
    check_count("folds", folds, 2)
    check_count("fold", number, 0)
    parts = list(splits.values())
    owners = [(part, index) for part in parts for index in range(len(part))]
    names = [part.ids[index] for part, index in owners]
    if any(part.mos is None for part in parts):
        raise ValueError("folds need scores, but some images have none")
    if repeated := len(names) - len(set(names)):
        raise ValueError(f"folds need names that occur once, but {repeated} occur in several splits")
    if number >= folds or folds > len(names):
        raise ValueError(f"fold={number} of folds={folds} does not exist; there are {len(names)} images")
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__))
    order = np.random.default_rng(0).permutation(len(names))
    inside = np.arange(len(order)) % folds == number
    others, decides = order[~inside], np.arange(len(names) - inside.sum()) % VALIDATION == 0
    chosen = {"train": others[~decides], "val": others[decides], "test": order[inside]}
    title = parts[0].name.partition("/")[0]
    return {part: _joined(f"{title}/{part}", parts, owners, by_name[np.sort(ranks)]) for part, ranks in chosen.items()}


def _joined(name: str, parts: list[Split], owners: list[tuple[Split, int]], places: np.ndarray) -> Split:
    found = [owners[place] for place in places]
    return Split(
        name=name,
        ids=tuple(part.ids[index] for part, index in found),
        mos=np.array([part.mos[index] for part, index in found if part.mos is not None], np.float32),
        mos_range=parts[0].mos_range,
        read=Joined(tuple((part.read, index) for part, index in found)),
        rows=tuple(part.rows[index] for part, index in found) if all(part.rows for part in parts) else (),
        regions=joined([(part.regions, index) for part, index in found]),
    )


@dataclass(frozen=True)
class Joined:
    """Reader of images from several splits."""

    places: tuple[tuple[Callable[[int], np.ndarray], int], ...]

    def __call__(self, index: int) -> np.ndarray:
        read, place = self.places[index]
        return read(place)
