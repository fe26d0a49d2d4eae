"""Load the images that are scored and attacked, and compute their digests."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from jaxiqa import data
from jaxiqa.config import Attack, Data, Evaluation
from jaxiqa.data.validate import pixel_digests

HELD_BYTES = 2 * 2**30
"""Memory limit: images under attack are kept in memory, as 8-bit values, if they are smaller together."""


@dataclass(frozen=True)
class Checked:
    """A split whose images can all be decoded, and the SHA-256 digest of each image's pixels."""

    split: data.Split
    digests: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Return the digest of names, human scores and pixels together."""
        mos = [] if self.split.mos is None else self.split.mos.tolist()
        return hashlib.sha256(repr((self.split.ids, mos, self.digests)).encode()).hexdigest()


def load_split(chosen: Data, part: str) -> data.Split:
    """Load one split of a data set; raise ``ValueError`` with the existing splits if it is missing."""
    splits = data.load(chosen.name, **chosen.arguments)
    if part not in splits:
        raise ValueError(f"data set {chosen.name!r} has no split {part!r}; choose from {', '.join(splits)}")
    return splits[part]


def checked(split: data.Split, *, uniform: bool = False) -> Checked:
    """Decode every image that is not known yet; raise the errors of `jaxiqa.data.validate`."""
    return Checked(split, pixel_digests(split, uniform=uniform))


def load_attacked(evaluation: Evaluation) -> Checked:
    """Load the images under attack: the split or a subset, resized; digests are those of the original size."""
    split = load_split(evaluation.data, evaluation.attacked_split)
    if evaluation.subset is not None:
        chosen = evaluation.subset
        split = data.select_subset(split, chosen.count, clusters=chosen.clusters, seed=chosen.seed)
    digests = checked(split, uniform=evaluation.size is None).digests
    split = data.resized(split, evaluation.size)
    if split.read(0).nbytes * len(split) < HELD_BYTES:
        split = replace(split, read=Held(split.read))
    return Checked(split, digests)


def fitted_on(label: str, attack: Attack, attacked: Checked) -> str:
    """Return the digest of the images that an attack is fitted on.

    Raises:
        ValueError: some of these images are under attack too, whatever their names; the message names the attack and
            the images.
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
class Held:
    """Reader that keeps images in memory, since every attack and defense reads them again."""

    read: Callable[[int], np.ndarray]
    images: dict[int, np.ndarray] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type, tuple[Callable[[int], np.ndarray]]]:
        """Pickle the reader only: another process reads the images that it needs."""
        return Held, (self.read,)

    def __call__(self, index: int) -> np.ndarray:
        if index not in self.images:
            self.images[index] = self.read(index)
        return self.images[index]
