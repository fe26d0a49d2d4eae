"""Randomised smoothing of the score's class, without and with a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.smoothing.class_certificate import ClassSampling, certify_class
from jaxiqa.defenses.smoothing.noisy_copies import noisy_view
from jaxiqa.defenses.smoothing.sampling import Progress


@dataclass(frozen=True, kw_only=True)
class RS(ClassSampling):
    """Randomised smoothing: certify the majority class of noisy copies and the Euclidean radius within which it holds.

        radius = σ Φ⁻¹(p),  p: one-sided Clopper-Pearson bound of the share of the class;  abstention if p < 1/2

    What is smoothed is ``class(score_fn(clip(x, 0, 1)))``, or ``class(score_fn(clip(denoise(x), 0, 1)))`` with a
    denoiser: clipping and denoising belong to the metric, and the certificate holds for any metric.

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
        denoise: None, or ``b h w 3 -> b h w 3``, for images with noise of ``sigma``, whose values leave [0, 1]; best a
            pytree that can be called.
        variant: ``"paper"``, or ``"benchmark"``: noisy images are clipped before the denoiser. Without a denoiser both
            are the same.

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

    denoise: Callable[[Images], Images] | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        noisy_view(self.sigma, self.denoise, self.variant)  # checks both

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        view = noisy_view(self.sigma, self.denoise, self.variant)
        return certify_class(self, view, score_fn, images, key, progress)


@dataclass(frozen=True)
class DRS(RS):
    """Denoised smoothing: `RS` with a denoiser, which must be given.

    Arguments, call and errors are those of `RS`; ``denoise`` may be the first positional argument.

    >>> import jax
    >>> certify = DRS(denoise=lambda x: 0.5 * x + 0.25, score_range=(0.0, 1.0), n0=10, n=50)
    >>> certify(lambda x: x.mean((1, 2, 3)), jax.numpy.full((1, 4, 6, 3), 0.57), jax.random.key(0)).label.tolist()
    [6]

    Reference: Salman et al., "Denoised Smoothing: A Provable Defense for Pretrained Classifiers", arXiv:2003.01908.
    """

    denoise: Callable[[Images], Images] = field()  # field() removes the default of RS

    def __post_init__(self) -> None:
        trained("denoise", self.denoise)  # None is no denoiser
        super().__post_init__()
