"""Which images are scored and attacked, and digests by which they are told apart."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from jaxiqa import data
from jaxiqa.config import Attack, Data, Evaluation

HELD_BYTES = 2 * 2**30
"""Images under attack are held in memory, as 8-bit values, if they fit in this."""


@dataclass(frozen=True)
class Checked:
    """A split all of whose images were decoded once, and the SHA-256 digest of each image's pixels."""

    split: data.Split
    digests: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of names, human scores and pixels together."""
        mos = [] if self.split.mos is None else self.split.mos.tolist()
        return hashlib.sha256(repr((self.split.ids, mos, self.digests)).encode()).hexdigest()


def load_split(chosen: Data, part: str) -> data.Split:
    """One split of a data set, or an error that lists those there are."""
    splits = data.load(chosen.name, source=chosen.source, limit=chosen.limit, **chosen.options)
    if part not in splits:
        raise ValueError(f"data set {chosen.name!r} has no split {part!r}, only {', '.join(splits)}")
    return splits[part]


def checked(split: data.Split, *, uniform: bool = False) -> Checked:
    """Decode every image once. Errors are those of `jaxiqa.data.validate`."""
    found: dict[int, str] = {}
    data.validate(replace(split, read=Digesting(split.read, found)), uniform=uniform)
    return Checked(split, tuple(found[index] for index in range(len(split))))


def load_attacked(evaluation: Evaluation) -> Checked:
    """The images under attack: the split, the varied few of it, at their size; digests are of their own size."""
    split = load_split(evaluation.data, evaluation.attacked_split)
    if evaluation.subset is not None:
        chosen = evaluation.subset
        split = data.select_subset(split, chosen.count, clusters=chosen.clusters, seed=chosen.seed)
    digests = checked(split, uniform=evaluation.size is None).digests
    split = data.resized(split, evaluation.size)
    if split.read(0).nbytes * len(split) < HELD_BYTES:
        split = replace(split, read=Held(tuple(map(split.read, range(len(split))))))
    return Checked(split, digests)


def fitted_on(label: str, attack: Attack, attacked: Checked) -> str:
    """The digest of the images that an attack is fitted on.

    Raises:
        ValueError: some of them are under attack too, whatever their names; names the attack and the images.
    """
    assert attack.fit_on is not None
    others = checked(load_split(attack.fit_on, attack.fit_split))
    places = {digest: place for place, digest in enumerate(attacked.digests)}
    if both := sorted(places[digest] for digest in places.keys() & set(others.digests)):
        names = ", ".join(attacked.split.ids[place] for place in both[:5]) + (", …" if len(both) > 5 else "")
        raise ValueError(
            f"evaluation.attacks.{label} is fitted on {len(both)} of the {len(attacked.split)} images under attack "
            f"({names}); choose other images by fit_on and fit_split"
        )
    return others.sha256


@dataclass(frozen=True)
class Digesting:
    """Reads images and notes their digests, by place."""

    read: Callable[[int], np.ndarray]
    digests: dict[int, str]

    def __call__(self, index: int) -> np.ndarray:
        pixels = self.read(index)
        self.digests[index] = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        return pixels


@dataclass(frozen=True)
class Held:
    """Images in memory, which every attack and every defense reads again."""

    pictures: tuple[np.ndarray, ...]

    def __call__(self, index: int) -> np.ndarray:
        return self.pictures[index]
