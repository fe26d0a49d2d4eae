"""What an attack leaves of the order of a set of images. Host-side, float64."""

from collections.abc import Mapping

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxiqa.core.halves import low_half
from jaxiqa.measures.correlation import srocc

Values = Float[np.ndarray, "_"]
COMBINED = "combined"
"""Name of the attack that takes, for each image, the score of the attack that moved it furthest against the order."""


def combined(attacked: Mapping[str, Values], order: Values) -> Values:
    """Return, for each image, the attacked score that is furthest against the order.

    Images of the low half of the order (`jaxiqa.core.halves.low_half`) shall rise: they get their largest score; the
    others their smallest.

    >>> combined({"a": np.array([1.0, 9.0]), "b": np.array([3.0, 7.0])}, np.array([0.0, 1.0]))
    array([3., 7.])
    """
    scores = np.stack([np.asarray(values, np.float64) for values in attacked.values()])
    return np.where(low_half(order), scores.max(0), scores.min(0))


def worst_srocc(attacked: Mapping[str, Values], order: Values) -> tuple[float, str]:
    """Return the smallest SROCC that an attack of an ensemble, or `combined`, leaves, and the attack's name.

    Args:
        attacked: scores of the attacked images by attack, at one strength; the clean scores may be among them.
        order: human scores of these images.

    Raises:
        ValueError: no attacks, or as of `jaxiqa.measures.correlation.srocc`.

    >>> order = np.array([0.0, 1.0, 2.0, 3.0])
    >>> worst_srocc({"a": order[::-1], "b": order}, order)
    (-1.0, 'a')
    """
    if not attacked:
        raise ValueError("attacked is empty; expected the scores of at least one attack")
    found = {name: srocc(values, order) for name, values in {**attacked, COMBINED: combined(attacked, order)}.items()}
    name = min(found, key=lambda name: found[name])
    return found[name], name


def bootstrap_difference(
    ours: Float[np.ndarray, "*s n"],
    theirs: Float[np.ndarray, "*s n"],
    order: Values,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return SROCC(ours) − SROCC(theirs) and its 95 % interval by the paired bootstrap over images.

    Each draw takes as many images as there are, with replacement, the same ones for both models. Draws in which a
    correlation is undefined (all values equal) are drawn again.

    Args:
        ours: scores of one model, or of its seeds, ``n`` or ``s n``; with seeds, differences are means over them.
        theirs: scores of the model that it is compared with, for the same images and seeds.
        order: human scores of these images.
        draws: number of draws.
        seed: of the draws.

    Raises:
        ValueError: as of `jaxiqa.measures.correlation.srocc`, or fewer than one draw.

    >>> order = np.arange(30.0)
    >>> bootstrap_difference(order, order, order)
    (0.0, 0.0, 0.0)
    """
    if draws < 1:
        raise ValueError(f"draws={draws}; expected at least 1")
    pairs = list(zip(np.atleast_2d(ours), np.atleast_2d(theirs), strict=True))
    difference = float(np.mean([srocc(a, order) - srocc(b, order) for a, b in pairs]))
    random, found = np.random.default_rng(seed), np.empty(0)
    while len(found) < draws:
        chosen = random.integers(len(order), size=(draws, len(order)))
        ranks, drawn = _standard_ranks(np.asarray(order)[chosen]), np.zeros(draws)
        for a, b in pairs:
            drawn += ((_standard_ranks(a[chosen]) - _standard_ranks(b[chosen])) * ranks).sum(1) / len(pairs)
        found = np.append(found, drawn[np.isfinite(drawn)])
    low, high = np.quantile(found[:draws], [0.025, 0.975])
    return difference, float(low), float(high)


def _standard_ranks(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Return the ranks of each row, centred and of length 1; NaN for a row of equal values."""
    ranks = scipy.stats.rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks, axis=1, keepdims=True)
