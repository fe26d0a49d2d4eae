"""Randomised smoothing with one denoising step of a diffusion model."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Int

from jaxiqa.core.pytrees import trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.diffusion import ask, linear_schedule, noise, predict_clean, step_of_sigma
from jaxiqa.defenses.smoothing.class_certificate import ClassSampling, certify_class
from jaxiqa.defenses.smoothing.noise import Words, gaussian
from jaxiqa.defenses.smoothing.noisy_copies import check_size, resized_to
from jaxiqa.defenses.smoothing.sampling import Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OneShot:
    """``x̂_0(√ᾱ x + √(1 − ᾱ) noise)``: diffuse to index t, then predict the clean image by the network."""

    network: Any
    schedule: Any
    t: Any

    votes: ClassVar[int] = 1

    def __call__(self, images: Images, words: Words, samples: Int[Array, " m"]) -> Images:
        drawn = gaussian(words, samples, images.shape[1:])
        noisy = noise(self.schedule, 2 * images - 1, self.t, drawn)
        epsilon = ask(self.schedule, self.network, noisy, self.t)[..., :3]
        return (predict_clean(self.schedule, noisy, self.t, epsilon) + 1) / 2


@dataclass(frozen=True)
class DDRS(ClassSampling):
    """Diffusion-denoised smoothing: `RS` on noisy images that one step of a diffusion model denoises.

    The image is resized to ``size`` and diffused to the first index t whose noise is at least σ (√(1/ᾱ − 1) >= 2σ,
    since images are in [-1, 1] there). The network predicts the clean image, which is scored at that size. The radius
    is computed with σ, which is valid because the noise is not less. It holds for the *resized* image; ``input_radius``
    of the certificate holds for the given image.

    Args:
        network: ``(x b h w 3 in [-1, 1], t b) -> b h w 6``, see `jaxiqa.defenses.diffusion`; best a callable pytree.
        score_range, sigma, n0, n, alpha, classes, target, chunk: as for `jaxiqa.defenses.smoothing.RS`.
        size: side to which images are resized; None: no resize.

    Call and errors: as for `RS`; also an error if sigma is above the noise of the diffusion.

    >>> certify = DDRS(network=lambda x, t: jax.numpy.zeros((*x.shape[:3], 6)), score_range=(0.0, 1.0), n=50, size=8)
    >>> found = certify(lambda x: x.mean((1, 2, 3)), jax.numpy.full((1, 4, 6, 3), 0.57), jax.random.key(0))
    >>> found.label.tolist(), found.size
    ([6], (8, 8))

    Reference: Carlini et al., "(Certified!!) Adversarial Robustness for Free!", arXiv:2206.10550.

    **Differs from the paper**: the noise is that of the schedule at index t, up to 1 % more than σ; the paper
    interpolates.
    """

    network: Callable[..., Any]
    _: KW_ONLY
    size: int | None = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        trained("network", self.network)
        check_size(self.size)
        step_of_sigma(linear_schedule(), self.sigma)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        schedule = linear_schedule()
        view = OneShot(trained("network", self.network), schedule, step_of_sigma(schedule, self.sigma))
        resize, norm = resized_to(self.size, images)
        return certify_class(self, view, score_fn, images, key, progress, resize=resize, resize_norm=norm)
