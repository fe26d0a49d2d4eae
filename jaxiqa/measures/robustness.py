"""How far an attack moves scores: gains, R-score, and their summary over strengths. Host-side, float64.

Every function takes clean and attacked scores of the same images, and the ends (low, high) of the scale of gains:
s̃ = (s − low) / (high − low). The caller chooses these ends and must report them.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxiqa.core.checks import check_choice

Values = Float[np.ndarray, "_"]
Number = int | float
EPSILON = 1e-6
"""Smallest change that the R-score distinguishes from no change."""


def scale(clean: Values, attacked: Values, low: Number, high: Number) -> tuple[Values, Values]:
    """Return both on the scale on which ``low`` is 0 and ``high`` is 1; values may be outside [0, 1].

    Raises:
        ValueError: lengths differ, the input is empty, values are not finite, or low ≥ high.

    >>> scale(np.array([50.0]), np.array([60.0]), 0.0, 200.0)
    (array([0.25]), array([0.3]))
    """
    clean, attacked = np.asarray(clean, np.float64), np.asarray(attacked, np.float64)
    if clean.shape != attacked.shape or clean.size == 0:
        raise ValueError(
            f"clean {clean.shape} and attacked {attacked.shape} scores must have the same length, at least 1"
        )
    if not (np.isfinite(clean).all() and np.isfinite(attacked).all()):
        raise ValueError("scores must be finite")
    if not low < high:
        raise ValueError(f"score range ({low}, {high}) must have low < high")
    return (clean - low) / (high - low), (attacked - low) / (high - low)


def abs_gain(clean: Values, attacked: Values, low: Number, high: Number) -> Values:
    """Return AbsGain per image: s̃_adv − s̃. Signed, despite its name: negative if the attack lowers the score.

    >>> abs_gain(np.array([50.0]), np.array([75.0]), 0.0, 100.0)
    array([0.25])
    """
    before, after = scale(clean, attacked, low, high)
    return after - before


def magnitude_gain(clean: Values, attacked: Values, low: Number, high: Number) -> Values:
    """Return |s̃_adv − s̃| per image: how far the score moved, in either direction; in [0, ∞).

    >>> magnitude_gain(np.array([50.0]), np.array([25.0]), 0.0, 100.0)
    array([0.25])
    """
    return np.abs(abs_gain(clean, attacked, low, high))


def deviation_gain(clean: Values, attacked: Values) -> Values:
    """Return the gain per image in standard deviations of the clean scores: (s_adv − s) / std(s), std with n − 1.

    A model cannot lower it by a smaller range of its scores.

    Raises:
        ValueError: as of `scale`, or fewer than two clean scores, or all are equal.

    >>> deviation_gain(np.array([10.0, 12.0]), np.array([12.0, 14.0])).round(3)
    array([1.414, 1.414])
    """
    before, after = scale(clean, attacked, 0.0, 1.0)
    if len(before) < 2 or np.ptp(before) == 0:
        raise ValueError("clean scores must be at least two and differ; their deviation is the unit")
    return (after - before) / before.std(ddof=1)


def rel_gain(clean: Values, attacked: Values, low: Number, high: Number) -> Values:
    """Return RelGain per image: (s̃_adv − s̃) / (s̃ + 1).

    Raises:
        ValueError: as of `scale`, or a clean score of s̃ ≤ −1, for which the ratio has no meaning.

    >>> rel_gain(np.array([100.0]), np.array([150.0]), 0.0, 100.0)
    array([0.25])
    """
    before, after = scale(clean, attacked, low, high)
    if before.min() <= -1:
        raise ValueError(
            f"scaled clean score {before.min()} at index {np.argmin(before)} must be above -1; widen the range"
        )
    return (after - before) / (before + 1)


def r_score(clean: Values, attacked: Values, low: Number, high: Number, *, variant: str = "benchmark") -> Values:
    """Return the R-score per image: log₁₀(largest possible change / actual change). Higher is more robust.

    ``"benchmark"``, the default: log₁₀( max(1 − s̃, s̃) / (|s̃_adv − s̃| + 1e-6) ), from "Comparing the Robustness of
    Modern No-Reference Image- and Video-Quality Metrics to Adversarial Attacks", arXiv:2310.06958. The largest possible
    change depends only on the clean score, so values of different attacks are comparable, and it is always finite. It
    goes from −0.3 (full-scale change of a score in the middle) to 6 (no change), and beyond for scores outside
    [low, high].

    ``"authors"``: log₁₀( max(β₁ − s̃_adv, s̃ − β₀) / |s̃_adv − s̃| ) with β₁ = max s̃_adv and β₀ = min s̃ over the given
    images, from the code of "Robustness as Architecture", arXiv:2506.04951. It depends on the other images and on the
    attack, not on (low, high). It is +∞ for no change, and −∞ for an image with both the lowest clean and the highest
    attacked score.

    Raises:
        ValueError: as `scale`, or an unknown variant.

    >>> round(float(r_score(np.array([50.0]), np.array([55.0]), 0.0, 100.0)[0]), 4)
    1.0
    """
    check_choice("variant", variant, ["benchmark", "authors"])
    before, after = scale(clean, attacked, low, high)
    change = np.abs(after - before)
    if variant == "benchmark":
        return np.log10(np.maximum(1 - before, before) / (change + EPSILON))
    possible = np.maximum(after.max() - after, before - before.min())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(change > 0, np.log10(possible / change), np.inf)


def wasserstein(clean: Values, attacked: Values, low: Number, high: Number) -> float:
    """Return the signed Wasserstein-1 distance of the two score distributions; the sign is that of the mean gain.

    >>> round(wasserstein(np.array([0.0, 50.0]), np.array([10.0, 60.0]), 0.0, 100.0), 6)
    0.1
    """
    before, after = scale(clean, attacked, low, high)
    return float(np.sign(after.mean() - before.mean()) * scipy.stats.wasserstein_distance(before, after))


def energy(clean: Values, attacked: Values, low: Number, high: Number) -> float:
    """Return the signed energy distance, √(2 ∫ (F − G)²); the sign is that of the mean gain.

    >>> round(energy(np.array([0.0]), np.array([50.0]), 0.0, 100.0), 6)
    1.0
    """
    before, after = scale(clean, attacked, low, high)
    return float(np.sign(after.mean() - before.mean()) * scipy.stats.energy_distance(before, after))


def interval95(values: Values) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean (Student's t): mean ± t(0.975, n − 1) · std / √n, std with n − 1.

    Infinitely wide for one value.

    Raises:
        ValueError: no values, or values that are not finite.

    >>> interval95(np.array([1.0]))
    (-inf, inf)
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and at least one, got {len(values)}: {values[:5].tolist()} …")
    if len(values) < 2:
        return -np.inf, np.inf
    half = _quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


@cache
def _quantile(degrees: int) -> float:
    """Return t(0.975): computed once, because SciPy takes longer for it than NumPy for the mean of 10,000 values."""
    return float(scipy.stats.t.ppf(0.975, degrees))


def folds_interval95(values: Values) -> tuple[float, float]:
    """Return the 95 % interval of a mean over the folds of a cross-validation.

    Student's t with the corrected variance (1/n + 1/(n − 1)) · var instead of var / n for n folds: 1/(n − 1) is the
    ratio of test to training images. Folds share training images, so the plain interval would be too narrow.

    Raises:
        ValueError: fewer than two values, or values that are not finite.

    >>> [round(end, 4) for end in folds_interval95(np.array([0.1, 0.2, 0.3]))]
    [-0.1928, 0.5928]

    Reference: Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"values must be finite and at least two, got {len(values)}: {values[:5].tolist()} …")
    count = len(values)
    half = scipy.stats.t.ppf(0.975, count - 1) * values.std(ddof=1) * np.sqrt(1 / count + 1 / (count - 1))
    return float(values.mean() - half), float(values.mean() + half)


RULES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_over_range": lambda e, v: float(np.trapezoid(v, e) / (e[-1] - e[0])) if len(e) > 1 else float(v[0]),
    "mean": lambda e, v: float(np.mean(v)),
    "trapezoid_2": lambda e, v: float(np.trapezoid(v, dx=2 / 255)),
    "trapezoid_8": lambda e, v: float(np.trapezoid(v, dx=8 / 255)),
}


def auc(epsilons: Values, values: Values, *, rule: str = "mean_over_range") -> float:
    """Return one number for a curve over ε.

    ``"mean_over_range"``, the default: Σᵢ (εᵢ₊₁ − εᵢ)(vᵢ + vᵢ₊₁)/2 / (ε_last − ε_first), the mean height of the curve,
    in the unit of v, for any choice of strengths; for a single ε, v itself.
    ``"mean"``: Σᵢ vᵢ / n. ``"trapezoid_2"`` and ``"trapezoid_8"``: d Σᵢ (vᵢ + vᵢ₊₁)/2 with d = 2/255 or 8/255 for any ε
    (so 0 for a single one), as the authors' tables and plotting code (arXiv:2506.04951) seem to use.

    Args:
        epsilons: strengths in [0, 1] pixel units, strictly increasing.
        values: the height of the curve at each; may be infinite, since the authors' R-score can be.

    Raises:
        ValueError: ε not finite or not strictly increasing, a value that is NaN, or lengths that differ.

    >>> round(auc(np.array([2, 4, 8]) / 255, np.array([0.1, 0.2, 0.4])), 6)
    0.25
    """
    check_choice("rule", rule, RULES)
    epsilons, values = np.asarray(epsilons, np.float64), np.asarray(values, np.float64)
    if epsilons.shape != values.shape or len(values) == 0:
        raise ValueError(f"epsilons {epsilons.shape} and values {values.shape} must have the same length, at least 1")
    if not (np.isfinite(epsilons).all() and (np.diff(epsilons) > 0).all()):
        raise ValueError(f"epsilons must be finite and increase strictly, got {epsilons.tolist()}")
    if np.isnan(values).any():
        raise ValueError(f"values must not be NaN, got {values.tolist()}")
    return RULES[rule](epsilons, values)
