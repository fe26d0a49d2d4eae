"""DiffPure: add noise that covers the attack, then remove both by a diffusion model."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.types import Images, PRNGKey
from jaxiqa.defenses.diffusion import Schedule, denoise, linear_schedule, noise
from jaxiqa.defenses.purify.purifier import check_key, check_side, check_size, computed
from jaxiqa.ops.resize import resize_bilinear


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # a schedule holds arrays
class DiffPure:
    """Add the noise of ``steps`` diffusion steps at once, then denoise step by step.

        x₀ = 2 resize(x) − 1,   x_t = √ᾱ x₀ + √(1 − ᾱ) ε,   … x_{t−1} from x_t by the network …,   resize((x₀ + 1) / 2)

    Args:
        network: ``(x b h w 3 in [-1, 1], t b) -> b h w 6``, noise and variance (see `jaxiqa.defenses.diffusion`), a
            pytree that can be called, such as ``jaxiqa.networks.load("adm", weights=...)``.
        steps: number of steps, 1 to the length of the schedule. The presets are 5, 10, 20, 30 and 50 of 1000.
        schedule: schedule of the diffusion that the network was trained for.
        size: (height, width) at which the network works; None: the size of the image.
        variant: ``"paper"``, or ``"benchmark"``, which resizes without antialiasing.

    Takes images ``b h w 3`` in [0, 1] and a key, returns images of their size. All images of a batch get the same
    noise. It is differentiable, with the same numbers. Every step is a checkpoint: the backward pass stores one image
    per step and the activations of one step. On a CPU the steps are a Python loop over one compiled step.

    Raises:
        ValueError: an option or the images are out of range, or the key is missing.

    >>> silent = lambda x, t: jnp.zeros((*x.shape[:3], 6))
    >>> purified = DiffPure(silent, steps=2, size=None)(jnp.full((1, 3, 5, 3), 0.5), jax.random.key(0))
    >>> purified.shape, bool(abs(purified - 0.5).max() < 0.05)
    ((1, 3, 5, 3), True)

    Reference: Nie et al., "Diffusion Models for Adversarial Purification", arXiv:2205.07460.

    **Differs from the paper**, as the benchmark does: the reverse process is DDPM's (ancestral sampling, discrete
    steps) instead of a solver of the stochastic differential equation; the gradient is that of the steps instead of the
    adjoint method.
    """

    network: Any
    _: KW_ONLY
    steps: int = static(50)
    schedule: Schedule = field(default_factory=linear_schedule)
    size: tuple[int, int] | None = static((256, 256))
    variant: str = static("paper")

    random: ClassVar[bool] = True
    surrogate: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("paper", "benchmark"))
        check_side("steps", self.steps)
        check_size("size", self.size)
        object.__setattr__(self, "network", trained("network", self.network))

    def __call__(self, images: Images, key: PRNGKey | None) -> Images:
        check_unit_images(images, channels=3)
        check_key("diffpure", key)
        assert key is not None
        forth, back = jax.random.split(key)

        def purified(images: Images) -> Images:
            noisy = _noisy(self, images, forth)
            clean = denoise(self.schedule, self.network, noisy, self.steps, back)
            return _to_images(clean, images.shape[1:3], antialias=self.variant == "paper")

        return computed(images, purified)


@jax.jit
def _noisy(purifier, images, key):
    size = purifier.size or images.shape[1:3]
    clean = 2 * resize_bilinear(images, size, antialias=purifier.variant == "paper") - 1
    return noise(purifier.schedule, clean, purifier.steps - 1, jax.random.normal(key, clean.shape[1:], clean.dtype))


def _to_images(clean, size, *, antialias):
    return jnp.clip(resize_bilinear((clean + 1) / 2, size, antialias=antialias), 0, 1)
