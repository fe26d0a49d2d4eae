"""Randomised smoothing of the score's class, without and with a denoiser."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from jaxiqa.core.checks import check_choice
from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.class_certificate import certify_class, check_voting
from jaxiqa.defenses.smoothing.noisy_copies import Denoised, Noisy
from jaxiqa.defenses.smoothing.sampling import Progress


@dataclass(frozen=True)
class RS:
    """Randomised smoothing: certify the majority class of noisy copies and the Euclidean radius within which it holds.

        radius = σ Φ⁻¹(p),  p: one-sided Clopper-Pearson bound of the share of the class;  abstention if p < 1/2

    The smoothed function is ``class(score_fn(clip(x, 0, 1)))``: the clipping is part of the metric, and the certificate
    holds for any metric.

    Args:
        score_range: (low, high) of the metric, such as ``model.score_range``; it is divided into classes.
        sigma: standard deviation of the noise, > 0, in [0, 1] pixel units.
        n0: number of samples that choose the class, >= 1.
        n: number of other samples, which bound its share.
        alpha: probability, in (0, 1), that a radius is too large.
        classes: number of classes, >= 3: one below the range, equal bins of the range, one above it.
        target: None: all n samples are used. A radius >= 0: sampling of an image stops when the bounds decide whether
            it has a class, and whether its radius is above ``target``; see `jaxiqa.defenses.smoothing.bounds`.
        chunk: noisy copies scored at once on each device; None: chosen automatically. The samples do not depend on it.

    Call: takes ``score_fn`` (``b h w 3 -> b``), images ``b h w 3`` in [0, 1], one key or one per image, and optionally
    ``progress(done, total)``; returns a `jaxiqa.core.types.Certificate` with ``label`` and ``edges``.

    Raises:
        ValueError: an option, the images or the key are not allowed; ``n`` samples cannot certify any radius (raised
            before sampling, with the least n); a score is not finite.

    >>> import jax
    >>> images = jax.numpy.full((1, 4, 6, 3), 0.57)
    >>> found = RS(score_range=(0.0, 1.0))(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> found.label.tolist(), found.edges[5:7].round(1).tolist(), bool(0.2 < found.radius[0] < 0.3)
    ([6], [0.5, 0.6], True)

    Reference: Cohen et al., "Certified Adversarial Robustness via Randomized Smoothing", arXiv:1902.02918.
    """

    _: KW_ONLY
    score_range: tuple[float, float]
    sigma: float = 0.12
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    classes: int = 12
    target: float | None = None
    chunk: int | None = None

    def __post_init__(self):
        check_voting(self)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        return certify_class(self, Noisy(self.sigma), score_fn, images, key, progress)


@dataclass(frozen=True)
class DRS:
    """Denoised smoothing: `RS` of ``class(score_fn(clip(denoise(x), 0, 1)))``.

    Args:
        denoise: ``b h w 3 -> b h w 3``, for images with noise of ``sigma``, not clipped to [0, 1]; best a callable
            pytree.
        score_range, sigma, n0, n, alpha, classes, target, chunk: as for `RS`.
        variant: ``"paper"``, or ``"benchmark"``: noisy images are clipped before the denoiser.

    Call and errors: as for `RS`.

    >>> import jax
    >>> certify = DRS(denoise=lambda x: 0.5 * x + 0.25, score_range=(0.0, 1.0), n0=10, n=50)
    >>> certify(lambda x: x.mean((1, 2, 3)), jax.numpy.full((1, 4, 6, 3), 0.57), jax.random.key(0)).label.tolist()
    [6]

    Reference: Salman et al., "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", arXiv:2003.01908.
    """

    denoise: Callable[[Images], Images]
    _: KW_ONLY
    score_range: tuple[float, float]
    sigma: float = 0.12
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    classes: int = 12
    target: float | None = None
    chunk: int | None = None
    variant: str = "paper"

    def __post_init__(self):
        check_voting(self)
        trained("denoise", self.denoise)
        check_choice("variant", self.variant, ("paper", "benchmark"))

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        view = Denoised(self.sigma, trained("denoise", self.denoise), self.variant)
        return certify_class(self, view, score_fn, images, key, progress)
