"""The gains of every cell (model, seed, attack, strength), read from the rows one model and attack at a time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from jaxiqa.measures.robustness import abs_gain, interval95, magnitude_gain, r_score
from jaxiqa.reports.cells import Key, scores
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import StrengthKey

COLUMNS = ("score", "attacked", "rounded", "ssim", "linf")
"""Fields of a row that are read."""

GAINS = {
    "AbsGain": (abs_gain, 1),
    "|Gain|": (magnitude_gain, 1),
    "R-score": (r_score, 1),
    "AbsGain, 8 bit": (abs_gain, 2),
}
"""Name -> the function, and the column that it compares with the clean score: of the attacked image (1), or of that
image in 8 bits, rounded towards the clean one (2)."""

CHANGES = {"SSIM": (3, 1.0), "255 · Linf": (4, 255.0)}
"""Name -> a measure of the change of an image: its column, and its factor."""

Intervals = dict[tuple[str, str, StrengthKey, str], tuple[float, float]]
"""(model, attack, strength, gain) -> interval."""


def gains(
    results: Rows,
    cells: Mapping[Key, int],
    images: int,
    keys: Sequence[tuple[str, int]],
    scales: Mapping[tuple[str, int], tuple[float, float]],
) -> tuple[dict[Key, dict[str, float]], Intervals]:
    """Return the means of every complete cell, and the intervals over images.

    Args:
        results: the rows.
        cells: their `jaxiqa.reports.cells.counts`.
        images: number of images of a complete cell.
        keys: (model, seed) in the order in which seeds are averaged.
        scales: (model, seed) -> the ends of its scale; without them a cell is left out.

    Returns:
        Cell -> name of a gain or change -> mean over its images; and the 95 % Student-t intervals over the images, each
        first averaged over seeds; none for a single image.

    Raises:
        ValueError: an image has two rows in one cell, or a score range is empty.
    """
    means: dict[Key, dict[str, float]] = {}
    intervals: Intervals = {}
    for model, attack in dict.fromkeys((key.model, key.attack) for key in cells):
        found = scores(results, cells, model, attack, COLUMNS)
        per_image: dict[tuple[StrengthKey, str], list[np.ndarray]] = defaultdict(list)
        for seed in [seed for name, seed in keys if name == model and (name, seed) in scales]:
            for key, of in found.items():
                if key.seed != seed or cells[key] != images:
                    continue
                means[key] = {}
                for name, (function, which) in GAINS.items():
                    values = function(of[0], of[which], *scales[model, seed])
                    per_image[key.strength, name].append(values)
                    means[key][name] = float(values.mean())
                for name, (which, factor) in CHANGES.items():
                    means[key][name] = factor * float(of[which].mean())
        for (strength, name), several in per_image.items():
            if images > 1:
                intervals[model, attack, strength, name] = interval95(np.mean(several, axis=0))
    return means, intervals
