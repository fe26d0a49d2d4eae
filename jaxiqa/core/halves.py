"""Which images of a set are its low half: those that an attack on the order raises."""

import numpy as np
from jaxtyping import Bool, Float


def low_half(order: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Return which numbers are in the low half: as near to half of them as equal numbers allow, and never all.

    Equal numbers stay together. The middle one of an odd count is in the low half. If all numbers are equal, all are.

    >>> low_half(np.array([70.0, 20.0, 50.0])).tolist()
    [False, True, True]
    >>> low_half(np.array([5.0, 5.0, 5.0, 3.0])).tolist()
    [False, False, False, True]
    """
    values, counts = np.unique(order, return_counts=True)
    if len(values) == 1:
        return np.ones(len(order), bool)
    below = np.cumsum(counts)[:-1]  # how many numbers each split calls low
    far = np.abs(2 * below - len(order))
    return np.asarray(order) <= values[np.flatnonzero(far == far.min())[-1]]
