"""Randomised smoothing with several random reverse diffusions per noisy copy, which vote."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxiqa.core.checks import check_choice, check_count
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.types import Certificate, Images, ScoreFn
from jaxiqa.defenses.diffusion import Schedule, ask, denoise_step, linear_schedule, respace, step_of_sigma
from jaxiqa.defenses.smoothing.class_certificate import ClassSampling, certify_class
from jaxiqa.defenses.smoothing.noise import Words, gaussian, stream
from jaxiqa.defenses.smoothing.noisy_copies import VARIANTS, check_size, resized_to
from jaxiqa.defenses.smoothing.sampling import Progress


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reversed:
    """``√ᾱ (x + σ noise)``, then ``votes`` reverse diffusions through all steps of a short schedule.

    The noise of the reverse diffusion differs between samples; with ``variant="benchmark"`` it is the same for all.
    """

    network: Any
    schedule: Any
    sigma: Any
    votes: int = static()
    variant: str = static()

    def __call__(self, images: Images, words: Words, samples: Int[Array, " m"]) -> Float[Array, "copies h w c"]:
        x = 2 * (images + self.sigma * gaussian(words, samples, images.shape[1:])) - 1
        x = jnp.repeat(jnp.asarray(self.schedule.signal, x.dtype)[-1] * x, self.votes, 0)
        votes = jnp.tile(jnp.arange(self.votes), len(images))
        words, samples = jnp.repeat(words, self.votes, 0), jnp.repeat(samples, self.votes, 0)
        if self.variant == "benchmark":
            words, samples = jnp.zeros_like(words), jnp.zeros_like(samples)
        steps = len(self.schedule.betas)
        for t in reversed(range(steps)):
            # The last step adds no noise, so none is drawn.
            drawn = gaussian(stream(words, votes * steps + t), samples, images.shape[1:]) if t else jnp.zeros_like(x)
            x = denoise_step(self.schedule, x, t, ask(self.schedule, self.network, x, t), drawn)
        return (jnp.clip(x, -1, 1) + 1) / 2


@dataclass(frozen=True)
class DensePure(ClassSampling):
    """DensePure: `RS` on the majority class of several random reverse diffusions of each noisy copy.

    The image is resized to ``size``, and noise of σ is added. The result is scaled by √ᾱ of the index t whose noise is
    nearest to σ, and denoised in ``steps`` reverse steps of equal length, ``votes`` times with different noise. Each
    result is scored at that size; the majority is the class of the noisy copy. The radius holds for the *resized*
    image; ``input_radius`` of the certificate holds for the given image.

    Args:
        network: ``(x b h w 3 in [-1, 1], t b) -> b h w 6``, see `jaxiqa.defenses.diffusion`; best a callable pytree.
        score_range, sigma, n0, n, alpha, classes, target, chunk: as for `jaxiqa.defenses.smoothing.RS`.
        size: side to which images are resized; None: no resize.
        steps: number of reverse steps, >= 1; two steps visit t and t/2.
        votes: reverse diffusions for each noisy copy, >= 1; None is 5, and 1 with ``variant="benchmark"``.
        variant: ``"paper"``, or ``"benchmark"``: the noise of the reverse diffusions is the same for all samples and
            images and does not depend on the key.

    Call and errors: as for `RS`; also an error if sigma is above the noise of the diffusion, or so small that the
    schedule has fewer than ``steps`` steps up to it.

    >>> flat = lambda x, t: jnp.zeros((*x.shape[:3], 6))
    >>> certify = DensePure(network=flat, score_range=(0.0, 1.0), n0=10, n=40, size=8, votes=3)
    >>> certify(lambda x: x.mean((1, 2, 3)), jnp.full((1, 4, 6, 3), 0.57), jax.random.key(0)).label.tolist()
    [6]

    Reference: Xiao et al., "DensePure: Understanding Diffusion Models towards Adversarial Robustness",
    arXiv:2211.00322.

    **Differs from the paper**: every noisy copy has its own reverse noise; the paper draws it once for each vote. The
    certificate of a random function is valid too. Among classes with equally many votes, the lowest wins.
    """

    network: Callable[..., Any]
    _: KW_ONLY
    size: int | None = 256
    steps: int = 2
    votes: int | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        trained("network", self.network)
        check_size(self.size)
        check_count("steps", self.steps, 1)
        check_choice("variant", self.variant, VARIANTS)
        if self.votes is not None:
            check_count("votes", self.votes, 1)
        self.schedule()

    def schedule(self) -> Schedule:
        """Return the schedule of the steps t/steps, 2t/steps, …, t of the diffusion, rounded."""
        full = linear_schedule()
        t = step_of_sigma(full, self.sigma, "densepure")
        visited = [round(t * part / self.steps) for part in range(1, self.steps + 1)]
        if len(set(visited)) < self.steps:
            raise ValueError(f"steps={self.steps} is too large for sigma={self.sigma} (step {t}); use fewer steps")
        return respace(full, visited)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Any, progress: Progress = None) -> Certificate:
        votes = self.votes or (5 if self.variant == "paper" else 1)
        view = Reversed(trained("network", self.network), self.schedule(), self.sigma, votes, self.variant)
        resize, norm = resized_to(self.size, images)
        return certify_class(self, view, score_fn, images, key, progress, resize=resize, resize_norm=norm)
