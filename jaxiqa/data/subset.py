"""Select a small, varied subset of images."""

import logging

import numpy as np
from jaxtyping import Float, UInt8

from jaxiqa.core.checks import check_count, check_number
from jaxiqa.data.split import Split

_log = logging.getLogger(__name__)

STARTS = 10
"""Number of k-means runs; the run with the tightest clusters is kept."""


def spatial_information(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """Compute SI: the standard deviation of the Sobel gradient's magnitude on the luma, for values 0 to 255.

    >>> spatial_information(np.zeros((8, 8, 3), np.uint8))
    0.0

    Reference: ITU-T P.910, for a single frame.
    """
    from scipy.ndimage import sobel  # not at the top: the import takes half a second, too long for --help

    luma = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
    return float(np.hypot(*(sobel(luma, axis, mode="nearest") for axis in (0, 1))).std())


def colourfulness(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """Compute CF: ``√(σ_rg² + σ_yb²) + 0.3 √(μ_rg² + μ_yb²)``, rg = R − G, yb = (R + G) / 2 − B, for values 0 to 255.

    >>> colourfulness(np.full((4, 4, 3), 90, np.uint8))
    0.0

    Reference: Hasler and Süsstrunk, "Measuring colorfulness in natural images", 2003.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def select_subset(split: Split, count: int, *, clusters: int = 10, seed: int = 0) -> Split:
    """Select ``count`` varied images: cluster by k-means on (SI, CF, MOS), draw equally many from each cluster.

    The three features are standardised over the split. From each cluster ``count / clusters`` images are drawn without
    replacement. If a cluster has fewer images, all are taken, and the missing ones are drawn from the other clusters as
    evenly as possible; this is logged. So the number is always ``count``. Every image is read once.

    Args:
        split: the images; without human scores, only SI and CF are used.
        count: number of images, a multiple of ``clusters`` and at most the size of the split.
        clusters: number of clusters.
        seed: seed of k-means and of the draw. Same images and seed, same subset.

    Returns:
        The selected images, in the order of the split.

    Raises:
        ValueError: ``count`` is not a multiple of ``clusters``, or the split has fewer images.

    >>> from jaxiqa.data import load
    >>> split = load("builtin", size=(16, 16), train=1, val=1, test=24)["test"]
    >>> len(select_subset(split, 6, clusters=3))
    6

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541. It takes 100 and 5 images from each of
    10 clusters of KonIQ-10k. It does not give the formulas of SI and CF, the scaling or the seed, so its exact subset
    cannot be reproduced.
    """
    check_count("clusters", clusters, 1)
    check_count("seed", seed, 0)
    check_count("count", count, 1)
    check_number("count", count, 1, len(split))
    if count % clusters:
        raise ValueError(f"count={count} is not a multiple of clusters={clusters}; expected equal shares")
    labels = _cluster(_features(split), clusters, seed)
    random = np.random.default_rng([seed, 1])
    members = [random.permutation(np.flatnonzero(labels == cluster)) for cluster in range(clusters)]
    quotas = shares([len(member) for member in members], count)
    if min(quotas) < count // clusters:
        _log.warning(
            "%s: clusters of %s images give %s images, since some have fewer than %d",
            split.name,
            ", ".join(str(len(member)) for member in members),
            ", ".join(map(str, quotas)),
            count // clusters,
        )
    chosen = [member[:quota] for member, quota in zip(members, quotas, strict=True)]
    return split.select(np.sort(np.concatenate(chosen)))


def shares(sizes: list[int], count: int) -> list[int]:
    """Return how many to take from groups of these sizes: ``count`` in total, as evenly as possible.

    >>> shares([9, 2, 9], 12), shares([9, 9], 4)
    ([5, 2, 5], [2, 2])
    """
    taken = [0] * len(sizes)
    for _ in range(count):
        open_ones = [i for i, size in enumerate(sizes) if taken[i] < size]
        taken[min(open_ones, key=lambda i: taken[i])] += 1
    return taken


def _features(split: Split) -> Float[np.ndarray, "n d"]:
    images = (split.read(index) for index in range(len(split)))
    features = np.array([(spatial_information(pixels), colourfulness(pixels)) for pixels in images])
    if split.mos is not None:
        features = np.column_stack([features, np.asarray(split.mos, np.float64)])
    deviation = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _cluster(points: Float[np.ndarray, "n d"], clusters: int, seed: int) -> np.ndarray:
    """Return the labels of the tightest run, computed in float64 on the host: independent of device rounding."""
    from scipy.cluster.vq import kmeans2

    best, tightest = np.zeros(len(points), int), np.inf
    for start in range(STARTS):
        centres = _start(points, clusters, np.random.default_rng([seed, 0, start]))
        centres, labels = kmeans2(points, centres, iter=100, minit="matrix", missing="warn")
        spread = float(((points - centres[labels]) ** 2).sum())
        if spread < tightest:
            best, tightest = labels, spread
    return best


def _start(points: Float[np.ndarray, "n d"], clusters: int, random: np.random.Generator) -> np.ndarray:
    """Draw the first centres by k-means++: a point's probability is its squared distance to the previous centres."""
    centres = [points[random.integers(len(points))]]
    while len(centres) < clusters:
        distances = np.min([((points - centre) ** 2).sum(1) for centre in centres], axis=0)
        total = distances.sum()
        weights = distances / total if total > 0 else None  # fewer distinct points than clusters
        centres.append(points[random.choice(len(points), p=weights)])
    return np.array(centres)
