"""The weights of a bilinear resize."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float


@lru_cache(maxsize=64)  # of a photograph it has megabytes
def bilinear_weights(side: int, size: int, antialias: bool) -> Float[np.ndarray, "size side"]:
    """Return the weights along one axis: ``m_ij ∝ max(0, 1 − |p_i − j| / s)`` with ``p_i = (i + ½) · side / size − ½``.

    s is ``side / size`` if the image shrinks and ``antialias`` is set, else 1. Every row sums to one.

    >>> bilinear_weights(2, 4, True).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    support = max(side / size, 1.0) if antialias else 1.0
    position = (np.arange(size) + 0.5) * side / size - 0.5
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(side)) / support)
    return weights / weights.sum(1, keepdims=True)
