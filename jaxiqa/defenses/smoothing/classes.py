"""Score classes: a scale cut into bins, so that a metric can be certified like a classifier."""

import numpy as np
from jaxtyping import Float, Int

from jaxiqa.checks import check_count


def class_edges(score_range: tuple[float, float], classes: int) -> Float[np.ndarray, " edges"]:
    """Borders of ``classes`` classes: one below the range, one above it, and equal bins between.

    They are summed up one by one, as the defense benchmark has them: the last may miss ``high`` by a rounding error.

    Args:
        score_range: lowest and highest typical score.
        classes: how many, >= 3.

    Raises:
        ValueError: an empty or non-finite range, or fewer than 3 classes.

    >>> print(class_edges((0.0, 1.0), 4))
    [0.  0.5 1. ]
    """
    try:
        low, high = map(float, score_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"score_range={score_range!r} is not allowed; expected finite (low, high) with low < high")
    check_count("classes", classes, 3)
    return np.cumsum([low] + [(high - low) / (classes - 2)] * (classes - 2))


def classify(scores: Float[np.ndarray, "*b"], edges: Float[np.ndarray, " k"]) -> Int[np.ndarray, "*b"]:
    """The class of each score: as many as there are edges below it. A score on an edge belongs to the class below.

    >>> classify(np.array([-1.0, 0.0, 0.1, 0.5, 1.0, 1.1]), class_edges((0.0, 1.0), 4)).tolist()
    [0, 0, 1, 1, 2, 3]
    """
    return np.searchsorted(edges, scores)
