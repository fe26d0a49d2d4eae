"""What samples prove: Clopper-Pearson bounds, radii, and the order statistics that enclose a quantile. Float64."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from jaxiqa.core.checks import check_choice, check_number

Probability = Float[np.ndarray, "*b"]


def check_share(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``0 < value < 1``.

    >>> check_share("alpha", 1.0)
    Traceback (most recent call last):
    ValueError: alpha=1.0 is outside (0, 1)
    """
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise ValueError(f"{name}={value!r} is outside (0, 1)")


def clopper_pearson(successes: Int[np.ndarray, "*b"] | int, n: int, alpha: float) -> Probability:
    """One-sided lower bound of a probability, of which ``successes`` of ``n`` were seen.

        p with P(Bin(n, p) >= successes) = alpha:  the alpha-quantile of Beta(k, n - k + 1);  0 for k = 0

    It is above the true probability with probability ``alpha`` at most; for k = n it is ``alpha ** (1 / n)``.

    >>> print(clopper_pearson(1000, 1000, 0.001).round(6))
    0.993116

    Reference: Clopper and Pearson, Biometrika 1934.
    """
    k = np.asarray(successes, float)
    return np.where(k > 0, special.betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)


def clopper_pearson_upper(successes: Int[np.ndarray, "*b"] | int, n: int, alpha: float) -> Probability:
    """The other side: below the true probability with probability ``alpha`` at most.

    >>> print(clopper_pearson_upper(0, 1000, 0.001).round(6))
    0.006884
    """
    return np.asarray(1 - clopper_pearson(np.asarray(n - successes), n, alpha))


def radius(probability: Probability, sigma: float) -> Float[np.ndarray, "*b"]:
    """Radius within which the class stays, ``sigma · Φ⁻¹(p)``, 0 for p < 1/2 (abstention); finite also for p = 1.

    >>> print(radius(clopper_pearson(1000, 1000, 0.001), 0.12).round(6))
    0.295592

    Reference: Cohen et al., arXiv 1902.02918, Theorem 1 with p_B = 1 - p_A.
    """
    return np.asarray(sigma * special.ndtri(np.clip(probability, 0.5, np.nextafter(1.0, 0.0))))


def upper_rank(n: int, p: float, alpha: float) -> int:
    """The least q >= ⌈p n⌉ for which the q-th smallest of n samples is not below the p-quantile, but for ``alpha``:

        P(Bin(n, p) >= q) < alpha,   n + 1 where there is none

    >>> upper_rank(1000, 0.6615388804893103, 0.001)
    708
    """
    q = max(math.ceil(p * n), int(stats.binom.ppf(1 - alpha, n, p)))  # the quantile is q - 1 or a tie
    while q <= n and stats.binom.sf(q - 1, n, p) >= alpha:
        q += 1
    return q


def lower_rank(n: int, p: float, alpha: float) -> int:
    """The greatest q <= ⌊p n⌋ for which the q-th smallest of n samples is not above the p-quantile, but for ``alpha``:

        P(Bin(n, p) < q) < alpha,   0 where there is none

    >>> lower_rank(1000, 0.33846111951068963, 0.001)
    293
    """
    q = min(math.floor(p * n), int(stats.binom.ppf(alpha, n, p)) + 1)
    while q >= 1 and stats.binom.cdf(q - 1, n, p) >= alpha:
        q -= 1
    return q


def median_ranks(n: int, epsilon: float, sigma: float, alpha: float, variant: str = "paper") -> tuple[int, int]:
    """Ranks, from 1 upwards, of the samples that enclose the median score of every image within ``epsilon``.

    The median of an image at Euclidean distance ``epsilon`` is a quantile of this one: at least its
    Φ(-ε/σ)-quantile, at most its Φ(ε/σ)-quantile. Each of the two ranks is right with probability 1 - ``alpha``.

    Args:
        n: number of samples.
        epsilon: Euclidean distance, in the unit of ``sigma``.
        sigma: standard deviation of the noise.
        alpha: probability that one bound fails.
        variant: ``"paper"``; or ``"benchmark"``, whose ranks are each one lower (the samples are sorted downwards and
            counted from 0, so that the pair is (n - q_u, n - q_l)): valid below, one sample short above.

    Returns:
        Lower and upper rank; 0 and n + 1 stand for -∞ and ∞.

    >>> median_ranks(1000, 0.05, 0.12, 0.001), median_ranks(1000, 0.05, 0.12, 0.001, "benchmark")
    ((293, 708), (292, 707))

    Reference: Chiang et al., arXiv 2007.03730.
    """
    check_choice("variant", variant, ("paper", "benchmark"))
    lower = lower_rank(n, special.ndtr(-epsilon / sigma), alpha)
    upper = upper_rank(n, special.ndtr(epsilon / sigma), alpha)
    return (lower, upper) if variant == "paper" else (max(0, n - upper), n - lower if lower else n + 1)


def least(feasible: Callable[[int], bool], limit: int = 10**7) -> int | None:
    """The least n >= 1 that is feasible, where all larger ones are too; None where none up to ``limit`` is.

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
    """Raise ``ValueError`` where ``n`` samples can prove nothing, whatever they are; says how many could.

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
    """Sample sizes at which the bounds are computed, and the share of ``alpha`` that each may spend.

    Without ``early``: all samples, all of ``alpha``. With it: n/16, n/8, n/4, n/2 and n (rounded up), an equal share
    each. By the union bound the bounds of all looks hold together with probability 1 - ``alpha``, whenever and for
    whatever reason sampling ends, so the best one of them may be reported. The price: at the last look the bound is
    that of alpha / 5, a little wider.

    >>> stopping_schedule(1000, 0.001, early=False)
    [(1000, 0.001)]
    >>> stopping_schedule(100, 0.05, early=True)
    [(7, 0.01), (13, 0.01), (25, 0.01), (50, 0.01), (100, 0.01)]
    """
    sizes = sorted({math.ceil(n / 2**halvings) for halvings in range(LOOKS)}) if early else [n]
    return [(size, alpha / len(sizes)) for size in sizes]
