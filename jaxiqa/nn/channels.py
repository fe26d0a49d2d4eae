"""Channels of maps by number: which must be kept or removed together, and which do not depend on the image."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Channels:
    """The channels of a map: their numbers in `Numbers`, which ones are constant, and their values if so."""

    ids: np.ndarray
    known: np.ndarray
    values: np.ndarray

    @classmethod
    def unknown(cls, ids: np.ndarray) -> "Channels":
        """Return channels that depend on the image."""
        return cls(ids, np.zeros(len(ids), bool), np.zeros(len(ids), np.float32))


class Numbers:
    """The numbers of all channels. Those that are joined are kept or removed together; pinned ones are kept.

    >>> numbers = Numbers()
    >>> first, second = numbers.fresh(2), numbers.fresh(2)
    >>> numbers.join(first, second[::-1])
    >>> numbers.pin(Channels.unknown(second[:1]))
    >>> numbers.roots(second).tolist(), [numbers.is_pinned(number) for number in (0, 1)]
    ([1, 0], [False, True])
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pinned: set[int] = set()

    def root(self, number: int) -> int:
        """Return the number that stands for all that must be kept or removed together."""
        while self._parents[number] != number:
            self._parents[number] = number = self._parents[self._parents[number]]
        return number

    def roots(self, ids: np.ndarray) -> np.ndarray:
        """Return `root` of each."""
        return np.array([self.root(int(number)) for number in ids], int)

    def is_pinned(self, number: int) -> bool:
        """Return whether this channel must be kept."""
        return self.root(number) in self._pinned

    def fresh(self, count: int) -> np.ndarray:
        """Return new numbers."""
        ids = np.arange(len(self._parents), len(self._parents) + count)
        self._parents += ids.tolist()
        return ids

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Keep or remove these channels together, one by one."""
        for a, b in zip(first, second, strict=True):
            low, high = sorted((self.root(int(a)), self.root(int(b))))
            self._parents[high] = low
            if high in self._pinned:
                self._pinned.add(low)

    def pin(self, *maps: Any) -> None:
        """Keep all channels of these maps in their places."""
        for x in maps:
            if isinstance(x, Channels):
                self._pinned |= {self.root(int(number)) for number in x.ids}
