"""When to look at the samples, where sampling may end early, so that the certificate holds all the same."""

import math

LOOKS = 5


def looks(n: int, alpha: float, *, early: bool) -> list[tuple[int, float]]:
    """Sample sizes at which the bounds are computed, and the share of ``alpha`` that each may spend.

    Without ``early``: all samples, all of ``alpha``. With it: n/16, n/8, n/4, n/2 and n (rounded up), an equal share
    each. By the union bound the bounds of all looks hold together with probability 1 - ``alpha``, whenever and for
    whatever reason sampling ends, so the best one of them may be reported. The price: at the last look the bound is
    that of alpha / 5, a little wider.

    >>> looks(1000, 0.001, early=False)
    [(1000, 0.001)]
    >>> looks(100, 0.05, early=True)
    [(7, 0.01), (13, 0.01), (25, 0.01), (50, 0.01), (100, 0.01)]
    """
    sizes = sorted({math.ceil(n / 2**halvings) for halvings in range(LOOKS)}) if early else [n]
    return [(size, alpha / len(sizes)) for size in sizes]
