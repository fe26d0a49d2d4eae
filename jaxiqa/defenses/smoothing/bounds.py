"""Statistics of certificates, in float64: Clopper-Pearson bounds, radii, order statistics that enclose a quantile."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from jaxiqa.core.checks import check_choice, check_number

Probability = Float[np.ndarray, "*b"]


def check_share(name: str, value: float) -> None:
    """Check that ``0 < value < 1``; otherwise raise ``ValueError``.

    >>> check_share("alpha", 1.0)
    Traceback (most recent call last):
    ValueError: alpha=1.0 is outside (0, 1)
    """
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ValueError(f"{name}={value!r} is outside (0, 1)")


def clopper_pearson(successes: Int[np.ndarray, "*b"] | int, n: int, alpha: float) -> Probability:
    """Compute the one-sided lower bound of a probability from ``successes`` in ``n`` trials.

        p with P(Bin(n, p) >= successes) = alpha:  the alpha-quantile of Beta(k, n - k + 1);  0 for k = 0

    The bound is above the true probability with probability at most ``alpha``; for k = n it is ``alpha ** (1 / n)``.

    >>> print(clopper_pearson(1000, 1000, 0.001).round(6))
    0.993116

    Reference: Clopper and Pearson, Biometrika 1934.
    """
    k = np.asarray(successes, float)
    return np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)


def clopper_pearson_upper(successes: Int[np.ndarray, "*b"] | int, n: int, alpha: float) -> Probability:
    """Compute the one-sided upper bound: below the true probability with probability at most ``alpha``.

    >>> print(clopper_pearson_upper(0, 1000, 0.001).round(6))
    0.006884
    """
    return np.asarray(1 - clopper_pearson(np.asarray(n - successes), n, alpha))


def radius(probability: Probability, sigma: float) -> Float[np.ndarray, "*b"]:
    """Compute the radius within which the class is constant, ``sigma · Φ⁻¹(p)``; 0 for p < 1/2 (abstention).

    It is finite for p = 1 too.

    >>> print(radius(clopper_pearson(1000, 1000, 0.001), 0.12).round(6))
    0.295592

    Reference: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", arXiv:1902.02918, Theorem 1
    with p_B = 1 - p_A.
    """
    return np.asarray(sigma * special.ndtri(np.clip(probability, 0.5, np.nextafter(1.0, 0.0))))


def upper_rank(n: int, p: float, alpha: float) -> int:
    """Return the least q >= ⌈p n⌉ such that the q-th smallest of n samples bounds the p-quantile from above:

        P(Bin(n, p) >= q) < alpha,   n + 1 if there is none

    The bound fails with probability below ``alpha``.

    >>> upper_rank(1000, 0.6615388804893103, 0.001)
    708
    """
    q = max(math.ceil(p * n), int(stats.binom.ppf(1 - alpha, n, p)))  # the quantile is q - 1 or a tie
    while q <= n and stats.binom.sf(q - 1, n, p) >= alpha:
        q += 1
    return q


def lower_rank(n: int, p: float, alpha: float) -> int:
    """Return the greatest q <= ⌊p n⌋ such that the q-th smallest of n samples bounds the p-quantile from below:

        P(Bin(n, p) < q) < alpha,   0 if there is none

    The bound fails with probability below ``alpha``.

    >>> lower_rank(1000, 0.33846111951068963, 0.001)
    293
    """
    q = min(math.floor(p * n), int(stats.binom.ppf(alpha, n, p)) + 1)
    while q >= 1 and stats.binom.cdf(q - 1, n, p) >= alpha:
        q -= 1
    return q


def median_ranks(n: int, epsilon: float, sigma: float, alpha: float, variant: str = "paper") -> tuple[int, int]:
    """Return the ranks, from 1, of the samples that enclose the median score of every image within ``epsilon``.

    The median score of an image at Euclidean distance ``epsilon`` lies between two quantiles of this image: the
    Φ(-ε/σ)-quantile and the Φ(ε/σ)-quantile. Each of the two bounds holds with probability 1 - ``alpha``.

    Args:
        n: number of samples.
        epsilon: Euclidean distance, in the unit of ``sigma``.
        sigma: standard deviation of the noise.
        alpha: probability that one bound fails.
        variant: ``"paper"``; or ``"benchmark"``, whose ranks are both lower by one (it sorts in descending order and
            counts from 0, so the pair is (n - q_u, n - q_l)). Its lower bound is valid, its upper bound is one sample
            too low.

    Returns:
        Lower and upper rank; 0 means -∞, n + 1 means ∞.

    >>> median_ranks(1000, 0.05, 0.12, 0.001), median_ranks(1000, 0.05, 0.12, 0.001, "benchmark")
    ((293, 708), (292, 707))

    Reference: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
    arXiv:2007.03730.
    """
    check_choice("variant", variant, ("paper", "benchmark"))
    lower = lower_rank(n, special.ndtr(-epsilon / sigma), alpha)
    upper = upper_rank(n, special.ndtr(epsilon / sigma), alpha)
    return (lower, upper) if variant == "paper" else (max(0, n - upper), n - lower if lower else n + 1)


def least(feasible: Callable[[int], bool], limit: int = 10**7) -> int | None:
    """Return the least feasible n >= 1, if all larger n are feasible too; None if none up to ``limit`` is feasible.

    >>> least(lambda n: n * n > 50), least(lambda n: False)
    (8, None)
    """
    high = 1
    while not feasible(high):
        if high >= limit:
            return None
        high = min(2 * high, limit)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    return high


def refuse_few(n: int, feasible: Callable[[int], bool], nothing: str) -> None:
    """Check that ``n`` samples can certify anything; else raise ``ValueError`` with the number that can.

    >>> refuse_few(9, lambda n: 0.001 ** (1 / n) > 0.5, "at alpha=0.001 no radius")
    Traceback (most recent call last):
    ValueError: n=9 is too small: at alpha=0.001 no radius can be certified with fewer than n=10
    """
    check_number("n", n, 1)
    if not feasible(n):
        enough = least(feasible)
        limit = "any n" if enough is None else f"fewer than n={enough}"
        raise ValueError(f"n={n} is too small: {nothing} can be certified with {limit}")


LOOKS = 5


def stopping_schedule(n: int, alpha: float, *, early: bool) -> list[tuple[int, float]]:
    """Return the sample sizes at which bounds are computed, and the share of ``alpha`` of each: early stopping.

    Without ``early``: all samples, all of ``alpha``. With it: n/16, n/8, n/4, n/2 and n (rounded up), with equal shares
    of ``alpha``. By the union bound, the bounds at all sizes hold together with probability 1 - ``alpha``, whenever
    sampling stops and for whatever reason. So the best of them may be reported. The cost: the bound at n samples is
    that of alpha / 5, a little wider.

    >>> stopping_schedule(1000, 0.001, early=False)
    [(1000, 0.001)]
    >>> stopping_schedule(100, 0.05, early=True)
    [(7, 0.01), (13, 0.01), (25, 0.01), (50, 0.01), (100, 0.01)]
    """
    sizes = sorted({math.ceil(n / 2**halvings) for halvings in range(LOOKS)}) if early else [n]
    return [(size, alpha / len(sizes)) for size in sizes]
