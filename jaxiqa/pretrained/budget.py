"""Limits on what reading one file may cost.

A file from a stranger can be a few bytes long and cost hours or gigabytes to read: names that double, trees that share
branches, records that unpack to a thousand times their size. Every reader uses one `Budget` per file.
"""

from dataclasses import dataclass, field

STEPS = 2_000_000
"""Instructions of a pickle, and entries visited or copied; a large checkpoint needs some 100,000."""

DEPTH = 100
"""Nesting depth of containers; a pickled module needs some 20."""

ENTRIES = 200_000
"""Leaves of nested containers."""

ARRAYS = 20_000
"""Arrays in one file, records of a zip file, data sets of an HDF5 file; a large checkpoint has some 2,000."""

LETTERS = 2**26
"""Characters of all dotted names together."""

FREE = 2**26
"""Bytes that any file may unpack to."""

RATIO = 20
"""Beyond `FREE`: the largest ratio of unpacked size to file size. Trained weights compress by less than two."""


@dataclass
class Budget:
    """The remaining limits for one file.

    Attributes:
        size: bytes of the file.
        steps, letters, unpacked: what remains of each.

    >>> Budget(size=1000).spend(steps=3_000_000)
    Traceback (most recent call last):
    ValueError: it takes more than 2,000,000 steps to read; no sound file of weights does
    """

    size: int
    steps: int = STEPS
    letters: int = LETTERS
    unpacked: int = field(init=False)

    def __post_init__(self) -> None:
        self.unpacked = self.allowed

    @property
    def allowed(self) -> int:
        """Return how many bytes the file may unpack to."""
        return max(FREE, RATIO * self.size)

    def spend(self, *, steps: int = 0, letters: int = 0, unpacked: int = 0) -> None:
        """Subtract from the budget.

        Raises:
            ValueError: the budget is exceeded; the message names the limit.
        """
        self.steps -= steps
        self.letters -= letters
        self.unpacked -= unpacked
        if self.steps < 0:
            raise ValueError(f"it takes more than {STEPS:,} steps to read; no sound file of weights does")
        if self.letters < 0:
            raise ValueError(f"the names in it have more than {LETTERS:,} characters together")
        if self.unpacked < 0:
            raise ValueError(f"it has {self.size:,} bytes and unpacks to more than {self.allowed:,} bytes")


def check_depth(depth: int) -> None:
    """Raise a ValueError if containers are nested ``depth`` levels deep and that is too many."""
    if depth > DEPTH:
        raise ValueError(f"it is nested deeper than {DEPTH} levels, which is the limit")


def check_arrays(count: int, what: str = "arrays") -> None:
    """Raise a ValueError if one file has ``count`` arrays and that is too many."""
    if count > ARRAYS:
        raise ValueError(f"it has {count:,} {what}; more than {ARRAYS:,} are not read")
