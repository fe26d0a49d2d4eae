"""Median smoothing: certify an interval of the median score of noisy copies."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxiqa.core.checks import check_option
from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.bounds import median_ranks, refuse_few, stopping_schedule
from jaxiqa.defenses.smoothing.noisy_copies import noisy_view
from jaxiqa.defenses.smoothing.sampling import Progress, Sampling, sampler


@dataclass(frozen=True, kw_only=True)
class MS(Sampling):
    """Median smoothing: certify the median score under noise, with bounds for every image within ``epsilon``.

        q_l-th smallest of n scores  <=  median score of x + δ  <=  q_u-th smallest,   ‖δ‖₂ <= epsilon

    with the ranks of `jaxiqa.defenses.smoothing.bounds.median_ranks`. What is smoothed is ``score_fn(clip(x, 0, 1))``,
    or ``score_fn(clip(denoise(x), 0, 1))`` with a denoiser: clipping and denoising belong to the metric, and the
    certificate holds for any metric.

    Args:
        epsilon: Euclidean norm of the change, > 0, in [0, 1] pixel units over the whole image.
        sigma: standard deviation of the noise, > 0, in the same units.
        n: noisy copies of each image.
        alpha: probability, in (0, 1), that ``lower`` does not hold, and that ``upper`` does not.
        target: None: all n samples are used. A width > 0, in the metric's units: an image is done once its bounds are
            finite and say on which side of it the width of its interval lies; see `jaxiqa.defenses.smoothing.bounds`.
        chunk: noisy copies scored at once on each device; None chooses. The samples do not depend on it.
        denoise: None, or ``b h w 3 -> b h w 3``, for images with noise of ``sigma``, whose values leave [0, 1]; best a
            pytree that can be called.
        variant: ``"paper"``, or ``"benchmark"``: each bound is the sample one rank below, the score is the lower of two
            middle samples instead of their mean, and noisy images are clipped before the denoiser.

    Calling it takes ``score_fn`` (``b h w 3 -> b``), images ``b h w 3`` in [0, 1], a key, or one per image, and an
    optional ``progress(done, total)``, and returns a `jaxiqa.core.types.Certificate` with ``score`` and finite bounds,
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

    epsilon: float = 0.05
    denoise: Callable[[Images], Images] | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("epsilon", self.epsilon, open_low=True)
        noisy_view(self.sigma, self.denoise, self.variant)  # checks both
        if self.target is not None:
            check_option("target", self.target, open_low=True)

        def enough(n):
            size, share = stopping_schedule(n, self.alpha, early=self.target is not None)[-1]
            lower, upper = median_ranks(size, self.epsilon, self.sigma, share, self.variant)
            return lower >= 1 and upper <= size

        stated = f"at alpha={self.alpha}, sigma={self.sigma} no interval for epsilon={self.epsilon}"
        refuse_few(self.n, enough, stated)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        view = noisy_view(self.sigma, self.denoise, self.variant)
        return certify_median(self, view, score_fn, images, key, progress)


@dataclass(frozen=True)
class DMS(MS):
    """Denoised median smoothing: `MS` with a denoiser, which must be given.

    Arguments, call and errors are those of `MS`; ``denoise`` may be the first positional argument.

    >>> import jax
    >>> certify = DMS(denoise=lambda x: 0.5 * x + 0.25, n=100)
    >>> found = certify(lambda x: x.mean((1, 2, 3)), jax.numpy.full((1, 4, 6, 3), 0.5), jax.random.key(0))
    >>> print(found.score.round(1))
    [0.5]

    Reference: Chiang et al., "Detection as Regression: Certified Object Detection by Median Smoothing",
    arXiv:2007.03730; Salman et al., "Denoised Smoothing: A Provable Defense for Pretrained Classifiers",
    arXiv:2003.01908.
    """

    denoise: Callable[[Images], Images] = field()  # field() removes the default of MS

    def __post_init__(self):
        trained("denoise", self.denoise)  # None is no denoiser
        super().__post_init__()


def certify_median(
    options: MS, view: Any, score_fn: ScoreFn, images: Images, key: Any, progress: Progress
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
        size=(images.shape[1], images.shape[2]),
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
