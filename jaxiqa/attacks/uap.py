"""Universal adversarial perturbations: one pattern, fitted to some images, used on all others."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.fitting import VARIANTS, Learner, Progress, fit
from jaxiqa.attacks.engine.gradients import begin, finish
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.storage import read, write
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import CallableModule
from jaxiqa.core.types import Images, PRNGKey, ScoreFn
from jaxiqa.ops.geometry import tile

DEFAULTS: dict[str, dict[str, Any]] = {
    "optimised": {"epochs": 10, "batch_size": 8},
    "cumulative": {"epochs": 10, "batch_size": 1},
    "generative": {"epochs": 20, "batch_size": 8, "step_size": 3e-3},
}
BENCHMARK: dict[str, Any] = {"epsilon": 0.1, "epochs": 5, "batch_size": 8, "step_size": 1e-3}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UAP(Attack):
    """Add one fixed pattern: ``clip(x + amplitude · tile(delta), 0, 1)``.

    Args:
        delta: ``h w c``, from `fit_uap`; repeated over larger images, cut off on smaller images.
        amplitude: factor ≥ 0 of the pattern; no value changes by more than ``amplitude · max|delta|``. A pytree leaf:
            one fit serves all amplitudes.

    Call it as `jaxiqa.attacks.pgd.PGD`; the score function and the key are not used.

    Raises:
        ValueError: images and ``delta`` differ in their number of channels, or an argument is out of range.

    >>> images = jnp.full((1, 4, 5, 3), 0.5)
    >>> float(UAP(jnp.full((2, 3, 3), 0.25), amplitude=0.5)(None, images, jax.random.key(0))[0, 3, 4, 0])
    0.625
    """

    delta: Float[Array, "h w c"]
    amplitude: Number = 1.0

    strength: ClassVar[str] = "amplitude"

    def __post_init__(self) -> None:
        check_number("amplitude", self.amplitude, 0.0, or_none=True)

    def __call__(self, score_fn: ScoreFn | None, images: Images, key: Keys) -> Images:
        del score_fn, key
        given = images
        self, _, images, _ = begin(self, None, images, None)
        if images.shape[-1] != self.delta.shape[-1]:
            raise ValueError(f"images have {images.shape[-1]} channels; expected {self.delta.shape[-1]}, as delta has")
        return finish(_add(self.amplitude * self.delta, images), given)


def _add(delta, images):
    return jnp.clip(images + tile(delta, *images.shape[1:3]), 0, 1)


def _clipped(delta, epsilon):
    return jnp.clip(delta, -epsilon, epsilon)


def _by_largest(gradients, state, params=None):
    del params
    return jax.tree.map(lambda g: g / jnp.maximum(jnp.abs(g).max(), jnp.finfo(g.dtype).tiny), gradients), state


_adam = optax.scale_by_adam()
LEARNERS = {
    "optimised": Learner(lambda delta, x, epsilon: _add(delta, x), _adam, _clipped),
    "cumulative": Learner(
        lambda delta, x, epsilon: _add(delta, x),
        optax.GradientTransformation(lambda params: optax.EmptyState(), _by_largest),
        _clipped,
    ),
    "generative": Learner(lambda emit, x, epsilon: _add(epsilon * emit(), x), _adam),
}


def fit_uap(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    epsilon: float | None = None,
    method: str = "optimised",
    variant: str = "paper",
    size: tuple[int, int] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    step_size: float | None = None,
    objective: Objective | str = "raise",
    progress: Progress | None = None,
) -> UAP:
    """Fit a pattern with ‖δ‖∞ ≤ ε that raises the mean score of ``images``.

        max over δ of mean_i f(clip(x_i + tile(δ), 0, 1))

    - ``method="optimised"``: Adam on δ, from zero, clipped to ±ε after every step.
    - ``method="cumulative"``: ``δ ← clip(δ + step_size · g / ‖g‖∞, −ε, ε)``, g the gradient of one image.
    - ``method="generative"``: δ = ε · tanh of a small convolutional generator (`Generator`), trained by Adam; only its
      output is kept.

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541: the optimised form with a
    256×256 pattern that starts at 1e-4, fitted on centre crops of that size, ε = 0.1, Adam 1e-3, batches of 8, 5
    epochs. There the amplitude of `UAP` sets the strength: 0.0784, 0.1569 and 0.3137 for ±2, 4 and 8 / 255.

    Args:
        score_fn: the metric.
        images: ``n h w c`` in [0, 1], to fit on; evaluate on others.
        key: random key of the order of the images, and of the start of a generator.
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``; optional with ``variant="benchmark"``.
        method: ``"optimised"``, ``"cumulative"`` or ``"generative"``.
        variant: ``"paper"`` or ``"benchmark"``.
        size: height and width of the pattern: those of the images, or the benchmark's 256×256, by default.
        epochs: passes over the images: 10, and 20 for a generator, by default.
        batch_size: images per step: 8, and 1 for the cumulative form, by default; the last batch of an epoch is filled
            up from the epoch's first images.
        step_size: learning rate; ``epsilon / 10`` by default, and 3e-3 for a generator.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        progress: called after every step as ``progress(steps done, total steps, note)``.

    Raises:
        ValueError: an option is out of range, the images are smaller than the benchmark's crops, or scores or gradients
            are not finite; the message names the step and its images.

    >>> images = jnp.full((4, 3, 5, 3), 0.5)
    >>> uap = fit_uap(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0), epsilon=8 / 255)
    >>> print(jnp.round(255 * uap.delta.min(), 3))
    8.0

    Reference: Moosavi-Dezfooli et al., "Universal adversarial perturbations", arXiv:1610.08401; for quality metrics,
    Shumitskaya et al., "Universal Perturbation Attack on Differentiable No-Reference Image- and Video-Quality Metrics",
    arXiv:2211.00366.

    **Differs from the paper**: gradient steps raise the mean score, since a score has no class boundary to cross. The
    cumulative step is normalised, so that it does not depend on the metric's scale or the size of the images. The
    generator is a small decoder from a learned seed instead of a U-Net.
    """
    check_choice("method", method, LEARNERS)
    check_choice("variant", variant, VARIANTS)
    check_unit_images(images)
    start = 0.0
    options = DEFAULTS[method] | {"epsilon": epsilon}
    if variant == "benchmark":
        if method != "optimised":
            raise ValueError(f"method={method!r} has no variant 'benchmark'; the benchmark ran 'optimised'")
        size, start = size or (256, 256), 1e-4
        images = _centre(images, size)
        options = BENCHMARK | ({} if epsilon is None else {"epsilon": epsilon})
    given = {"epochs": epochs, "batch_size": batch_size, "step_size": step_size}
    options |= {name: value for name, value in given.items() if value is not None}
    if options["epsilon"] is None:
        raise ValueError("epsilon is missing; set the largest change of a pixel value, such as 8 / 255")
    epsilon = options["epsilon"]
    check_number("epsilon", epsilon, 0.0, 1.0)
    options = {"step_size": epsilon / 10} | options
    shape = (*(size or images.shape[1:3]), images.shape[-1])
    check_number("size", min(shape), 1)
    learner = LEARNERS[method]
    options |= {"objective": objective, "progress": progress}
    if method == "generative":
        start_key, key = jax.random.split(key)
        emit = fit(learner, pattern(shape, start_key), score_fn, images, key, **options)
        return UAP(epsilon * emit())
    return UAP(
        fit(
            learner,
            jnp.full(shape, start, jnp.promote_types(images.dtype, jnp.float32)),
            score_fn,
            images,
            key,
            **options,
        )
    )


def _centre(images: Images, size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    height, width = size
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    if min(top, left) < 0:
        given = f"{images.shape[1]}x{images.shape[2]}"
        raise ValueError(f"images are {given}; expected at least size={height}x{width}, the crops of the benchmark")
    return images[:, top : top + height, left : left + width]


def save_uap(attack: UAP, path: str | Path) -> None:
    """Write a fitted pattern and its amplitude to a ``.safetensors`` file.

    Raises:
        jaxiqa.core.files.WriteError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "uap.safetensors"
    >>> save_uap(UAP(jnp.full((4, 6, 3), 0.01), amplitude=0.5), path)
    >>> load_uap(path).amplitude
    0.5
    """
    write(path, "uap", {"delta": attack.delta}, {"amplitude": float(attack.amplitude)})


def load_uap(path: str | Path) -> UAP:
    """Read a file of `save_uap`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or holds something else.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "uap.safetensors"
    >>> save_uap(UAP(jnp.full((4, 6, 3), 0.01), amplitude=0.5), path)
    >>> load_uap(path).amplitude
    0.5
    """
    arrays, options = read(path, "uap")
    if set(arrays) != {"delta"} or arrays["delta"].ndim != 3 or not set(options) <= {"amplitude"}:
        raise ValueError(f"{path}: not a fitted pattern: it holds {sorted(arrays)} and {options}")
    return UAP(arrays["delta"], **options)


class Generator(nnx.Module):
    """A pattern ``h w c`` in (−1, 1) from a learned seed map, by three 3×3 convolutions and two doublings of its size.

    Unlike a free pattern, it is smooth and built from coarse to fine.

    Args:
        size: height, width and channels of the pattern.
        width: number of hidden channels.
        rngs: random numbers for the seed map and the kernels.

    >>> Generator((9, 14, 3), width=4, rngs=nnx.Rngs(0))().shape
    (9, 14, 3)
    """

    def __init__(self, size: tuple[int, int, int], *, width: int = 32, rngs: nnx.Rngs):
        height, width_, channels = size
        self.size = size
        self.seed = nnx.Param(jax.random.normal(rngs.params(), (1, -(-height // 4), -(-width_ // 4), width)))
        conv = partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        self.coarse, self.middle, self.fine = conv(width, width), conv(width, width), conv(width, channels)

    def __call__(self) -> Float[Array, "h w c"]:
        x = _doubled(nnx.leaky_relu(self.coarse(self.seed[...]), 0.2))
        x = _doubled(nnx.leaky_relu(self.middle(x), 0.2))
        height, width, _ = self.size
        return jnp.tanh(self.fine(x))[0, :height, :width]


def _doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return x.repeat(2, axis=1).repeat(2, axis=2)


@partial(jax.jit, static_argnames="size")
def pattern(size: tuple[int, int, int], key: PRNGKey) -> CallableModule:
    """Create a new generator of patterns of this size.

    >>> pattern((5, 6, 3), jax.random.key(0))().shape
    (5, 6, 3)
    """
    return CallableModule(*nnx.split(Generator(size, rngs=nnx.Rngs(key))))
