"""Which images are scored and attacked."""

from dataclasses import dataclass, replace

import numpy as np

from jaxiqa import data
from jaxiqa.config import Data, Evaluation

HELD_BYTES = 2 * 2**30
"""Pictures under attack are held in memory, as 8-bit values, if they fit in this."""


def load_split(chosen: Data, part: str) -> data.Split:
    """One split of a data set, or an error that lists those there are."""
    splits = data.load(chosen.name, source=chosen.source, limit=chosen.limit, **chosen.options)
    if part not in splits:
        raise ValueError(f"data set {chosen.name!r} has no split {part!r}, only {', '.join(splits)}")
    return splits[part]


def load_attacked(evaluation: Evaluation) -> data.Split:
    """The images under attack: the split, the varied few of it, at their size."""
    split = load_split(evaluation.data, evaluation.attacked_split)
    if evaluation.subset is not None:
        chosen = evaluation.subset
        split = data.select_subset(split, chosen.count, clusters=chosen.clusters, seed=chosen.seed)
    split = data.resized(split, evaluation.size)
    data.validate(split, uniform=True)
    pictures = split.read(0).nbytes * len(split)
    return replace(split, read=Held(tuple(map(split.read, range(len(split)))))) if pictures < HELD_BYTES else split


@dataclass(frozen=True)
class Held:
    """Pictures in memory, which every attack and every defense reads again."""

    pictures: tuple[np.ndarray, ...]

    def __call__(self, index: int) -> np.ndarray:
        return self.pictures[index]
