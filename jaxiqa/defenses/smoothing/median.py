"""Median smoothing: certify an interval of the median score of noisy copies."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxiqa.core.checks import check_choice, check_chunk, check_count, check_option
from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.bounds import check_share, median_ranks, refuse_few, stopping_schedule
from jaxiqa.defenses.smoothing.noisy_copies import Denoised, Noisy
from jaxiqa.defenses.smoothing.sampling import Progress, sampler


@dataclass(frozen=True)
class MS:
    """Median smoothing: certify the median score under noise, with bounds for every image within ``epsilon``.

        q_l-th smallest of n scores  <=  median score of x + δ  <=  q_u-th smallest,   ‖δ‖₂ <= epsilon

    with the ranks of `jaxiqa.defenses.smoothing.bounds.median_ranks`. The smoothed function is
    ``score_fn(clip(x, 0, 1))``: the clipping is part of the metric, and the certificate holds for any metric.

    Args:
        epsilon: Euclidean norm of the change, > 0, in [0, 1] pixel units over the whole image.
        sigma: standard deviation of the noise, > 0, in the same units.
        n: noisy copies of each image.
        alpha: probability, in (0, 1), that ``lower`` does not hold; the same for ``upper``.
        target: None: all n samples are used. A width > 0, in the metric's units: sampling of an image stops when its
            bounds are finite and decide whether its interval is wider; see `jaxiqa.defenses.smoothing.bounds`.
        chunk: noisy copies scored at once on each device; None: chosen automatically. The samples do not depend on it.
        variant: ``"paper"``, or ``"benchmark"``: each bound is the sample one rank lower, and the score is the lower of
            the two middle samples instead of their mean.

    Call: takes ``score_fn`` (``b h w 3 -> b``), images ``b h w 3`` in [0, 1], one key or one per image, and optionally
    ``progress(done, total)``; returns a `jaxiqa.core.types.Certificate` with ``score`` and finite bounds,
    ``lower <= score <= upper``.

    Raises:
        ValueError: an option, the images or the key are not allowed; ``n`` samples are too few for any bound (raised
            before sampling, with the least n); a score is not finite.

    >>> import jax
    >>> images = jax.numpy.full((1, 4, 6, 3), 0.5)
    >>> found = MS(n=200)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(found.lower[0] < found.score[0] < found.upper[0]), found.n.tolist()
    (True, [200])

    Reference: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
    arXiv:2007.03730.
    """

    _: KW_ONLY
    epsilon: float = 0.05
    sigma: float = 0.12
    n: int = 1000
    alpha: float = 0.001
    target: float | None = None
    chunk: int | None = None
    variant: str = "paper"

    def __post_init__(self):
        check_bounding(self)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        return certify_median(self, Noisy(self.sigma), score_fn, images, key, progress)


@dataclass(frozen=True)
class DMS:
    """Denoised median smoothing: `MS` of ``score_fn(clip(denoise(x), 0, 1))``.

    Args:
        denoise: ``b h w 3 -> b h w 3``, for images with noise of ``sigma``, not clipped to [0, 1]; best a callable
            pytree.
        epsilon, sigma, n, alpha, target, chunk: as for `MS`.
        variant: ``"paper"``, or ``"benchmark"``: as for `MS`; also, noisy images are clipped before the denoiser.

    Call and errors: as for `MS`.

    >>> import jax
    >>> certify = DMS(denoise=lambda x: 0.5 * x + 0.25, n=100)
    >>> found = certify(lambda x: x.mean((1, 2, 3)), jax.numpy.full((1, 4, 6, 3), 0.5), jax.random.key(0))
    >>> print(found.score.round(1))
    [0.5]

    Reference: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
    arXiv:2007.03730; Salman et al., "Denoised Smoothing: A Provable Defense for Pretrained Classifiers",
    arXiv:2003.01908.
    """

    denoise: Callable[[Images], Images]
    _: KW_ONLY
    epsilon: float = 0.05
    sigma: float = 0.12
    n: int = 1000
    alpha: float = 0.001
    target: float | None = None
    chunk: int | None = None
    variant: str = "paper"

    def __post_init__(self):
        check_bounding(self)
        trained("denoise", self.denoise)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        view = Denoised(self.sigma, trained("denoise", self.denoise), self.variant)
        return certify_median(self, view, score_fn, images, key, progress)


@runtime_checkable
class Bounding(Protocol):
    """The options that `MS` and `DMS` share; see there."""

    epsilon: float
    sigma: float
    n: int
    alpha: float
    target: float | None
    chunk: int | None
    variant: str


def check_bounding(options: Bounding) -> None:
    """Check that options are in range and that n samples give finite bounds; else raise ``ValueError``."""
    check_option("epsilon", options.epsilon, open_low=True)
    check_option("sigma", options.sigma, open_low=True)
    check_count("n", options.n, 1)
    check_share("alpha", options.alpha)
    check_chunk(options.chunk)
    check_choice("variant", options.variant, ("paper", "benchmark"))
    if options.target is not None:
        check_option("target", options.target, open_low=True)

    def enough(n):
        size, share = stopping_schedule(n, options.alpha, early=options.target is not None)[-1]
        lower, upper = median_ranks(size, options.epsilon, options.sigma, share, options.variant)
        return lower >= 1 and upper <= size

    stated = f"at alpha={options.alpha}, sigma={options.sigma} no interval for epsilon={options.epsilon}"
    refuse_few(options.n, enough, stated)


def certify_median(
    options: Bounding, view: Any, score_fn: ScoreFn, images: Images, key: Any, progress: Progress
) -> Certificate:
    """Compute the certificate of `MS` for the noisy copies that ``view`` makes."""
    sampled = sampler(view, score_fn, images, key, options.n, options.chunk)
    count, active = len(images), np.arange(len(images))
    scores = np.zeros((count, options.n))
    n, score = np.zeros(count, int), np.zeros(count)
    lower, upper = np.full(count, -np.inf), np.full(count, np.inf)
    before = 0
    for size, share in stopping_schedule(options.n, options.alpha, early=options.target is not None):
        scores[active, before:size] = sampled.scores(active, before, size, progress)[..., 0]
        ordered = np.sort(scores[active, :size], 1)
        ranks = median_ranks(size, options.epsilon, options.sigma, share, options.variant)
        low, high = _ranked(ordered, ranks)
        lower[active], upper[active] = np.maximum(lower[active], low), np.minimum(upper[active], high)
        lower_middle, upper_middle = ordered[:, (size - 1) // 2], ordered[:, size // 2]
        score[active] = lower_middle if options.variant == "benchmark" else (lower_middle + upper_middle) / 2
        n[active], before = size, size
        if options.target is not None:
            width = upper[active] - lower[active]
            wide = np.isfinite(width) & (_least_width(ordered, options, share) > options.target)
            active = active[(width > options.target) & ~wide]
            if not len(active):
                break
    # In rare cases the bounds at one sample size miss the median at another. Wider bounds are valid too.
    lower, upper = np.minimum(lower, score), np.maximum(upper, score)
    return Certificate(
        radius=np.full(count, float(options.epsilon)),
        abstained=np.zeros(count, bool),
        n=n,
        sigma=float(options.sigma),
        alpha=float(options.alpha),
        noise="gaussian",
        size=tuple(images.shape[1:3]),
        score=score,
        lower=lower,
        upper=upper,
    )


def _ranked(ordered, ranks):
    """Return the samples of these two ranks; ±infinity if a rank is outside 1..n."""
    padded = np.pad(ordered, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
    return padded[:, ranks[0]], padded[:, ranks[1]]


def _least_width(ordered, options, share):
    """Return a lower bound of the interval's width for infinitely many samples, from the opposite bounds."""
    from_above, from_below = median_ranks(ordered.shape[1], -options.epsilon, options.sigma, share)
    below, above = _ranked(ordered, (from_below, from_above))
    return above - below
