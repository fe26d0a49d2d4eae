"""A small set of pictures that is as varied as a large one."""

import logging

import numpy as np
from jaxtyping import Float, UInt8

from jaxiqa.core.checks import check_count, check_number
from jaxiqa.data.split import Split

_log = logging.getLogger(__name__)

STARTS = 10
"""k-means is started so often, and the tightest clusters are kept."""


def spatial_information(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """SI: the standard deviation of the Sobel gradient's magnitude on the luma, of values 0 to 255.

    >>> spatial_information(np.zeros((8, 8, 3), np.uint8))
    0.0

    Reference: ITU-T P.910, for a single frame.
    """
    from scipy.ndimage import sobel  # takes half a second, which --help does not have

    luma = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
    return float(np.hypot(*(sobel(luma, axis, mode="nearest") for axis in (0, 1))).std())


def colourfulness(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """CF: ``√(σ_rg² + σ_yb²) + 0.3 √(μ_rg² + μ_yb²)`` with rg = R − G and yb = (R + G) / 2 − B, of values 0 to 255.

    >>> colourfulness(np.full((4, 4, 3), 90, np.uint8))
    0.0

    Reference: Hasler and Süsstrunk, "Measuring colorfulness in natural images", 2003.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    rg, yb = red - green, (red + green) / 2 - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def select_subset(split: Split, count: int, *, clusters: int = 10, seed: int = 0) -> Split:
    """``count`` pictures of all kinds: k-means on (SI, CF, MOS), and as many from each cluster.

    The three features are standardised over the split. From each of the clusters ``count / clusters`` pictures are
    drawn without replacement. A cluster with fewer gives all it has, and the others make up for it as evenly as they
    can, which is logged; so the number is always ``count``. Every picture is read once.

    Args:
        split: the pictures; without human scores the clusters are made of SI and CF alone.
        count: how many to take, a multiple of ``clusters`` and at most all of them.
        clusters: number of clusters.
        seed: of k-means and of the draw. Same pictures and seed, same subset.

    Returns:
        The chosen pictures, in the order of the split.

    Raises:
        ValueError: ``count`` is no multiple of ``clusters``, or there are not so many pictures.

    >>> from jaxiqa.data import load
    >>> split = load("builtin", size=(16, 16), train=1, val=1, test=24)["test"]
    >>> len(select_subset(split, 6, clusters=3))
    6

    Reference: arXiv:2408.01541, which takes 100 and 5 pictures from each of 10 clusters of KonIQ-10k; it names neither
    the formulas of SI and CF nor scaling and seed, so that its very pictures cannot be had this way.
    """
    check_count("clusters", clusters, 1)
    check_count("seed", seed, 0)
    check_count("count", count, 1)
    check_number("count", count, 1, len(split))
    if count % clusters:
        raise ValueError(f"count={count} is no multiple of clusters={clusters}; each cluster gives as many pictures")
    labels = _cluster(_features(split), clusters, seed)
    random = np.random.default_rng([seed, 1])
    members = [random.permutation(np.flatnonzero(labels == cluster)) for cluster in range(clusters)]
    quotas = shares([len(member) for member in members], count)
    if min(quotas) < count // clusters:
        _log.warning(
            "%s: clusters of %s pictures give %s, since some have fewer than %d",
            split.name,
            ", ".join(str(len(member)) for member in members),
            ", ".join(map(str, quotas)),
            count // clusters,
        )
    chosen = [member[:quota] for member, quota in zip(members, quotas, strict=True)]
    return split.select(np.sort(np.concatenate(chosen)))


def shares(sizes: list[int], count: int) -> list[int]:
    """How many to take from each of several heaps, so that they are ``count`` and as even as the heaps allow.

    >>> shares([9, 2, 9], 12), shares([9, 9], 4)
    ([5, 2, 5], [2, 2])
    """
    taken = [0] * len(sizes)
    for _ in range(count):
        open_ones = [i for i, size in enumerate(sizes) if taken[i] < size]
        taken[min(open_ones, key=lambda i: taken[i])] += 1
    return taken


def _features(split: Split) -> Float[np.ndarray, "n d"]:
    pictures = (split.read(index) for index in range(len(split)))
    features = np.array([(spatial_information(pixels), colourfulness(pixels)) for pixels in pictures])
    if split.mos is not None:
        features = np.column_stack([features, np.asarray(split.mos, np.float64)])
    deviation = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)


def _cluster(points: Float[np.ndarray, "n d"], clusters: int, seed: int) -> np.ndarray:
    """The labels of the tightest of several runs, in float64 on the host, so that no device's rounding matters."""
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
    """k-means++: each next centre is a point drawn by its squared distance to those before."""
    centres = [points[random.integers(len(points))]]
    while len(centres) < clusters:
        distances = np.min([((points - centre) ** 2).sum(1) for centre in centres], axis=0)
        total = distances.sum()
        weights = distances / total if total > 0 else None  # fewer distinct points than clusters
        centres.append(points[random.choice(len(points), p=weights)])
    return np.array(centres)
