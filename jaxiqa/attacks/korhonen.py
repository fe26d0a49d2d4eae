"""Korhonen's attack: change an image near its edges, where the change is hard to see."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import (
    begin,
    finish,
    nearest_on_line,
    per_image_gradient,
    towards,
    values_and_gradients,
)
from jaxiqa.attacks.engine.loop import iterate
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.threat_model import Image, Number
from jaxiqa.attacks.engine.variants import complete
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn
from jaxiqa.ops.edges import dilate, luma, sobel

_adam = optax.scale_by_adam()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Korhonen(Attack):
    """Gradient ascent by Adam; steps are scaled by the spatial activity m of the clean image; the best image is kept:

        x ← clip(x + step_size · m · Adam(∇f(x)), 0, 1),    m = dilate(s / max s),  s = S_x² + S_y²

    ``S`` are Sobel derivatives of the luma; the outermost pixels count as flat. There is no ε: the mask hides the
    change. A flat image has a zero mask and is returned unchanged.

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541: ``m = dilate(S_x / max S_x)``
    with its sign, ``x ← clip(x + step_size · Adam(m / 255 · ∇f(x) / score_scale), 0, 1)``, 10 steps, the last image.
    Adam divides out a constant scale of a pixel. So this mask matters only where it is nearly zero, and where it is
    negative: there it lowers the score. The presets, weak to strong, are step sizes of about 0.0008, 0.0016 and 0.0031.

    Args:
        step_size: Adam's learning rate: the largest change of a value per step, in [0, 1] pixel units; a pytree leaf.
        score_scale: width of the metric's scale (100 for scores from 0 to 100); a pytree leaf. It matters only if
            gradients are so small that Adam's constant 1e-8 matters, as often under ``"benchmark"``.
        steps: number of Adam steps, >= 1; None is 50, or 10.
        variant: ``"paper"`` or ``"benchmark"``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; images are RGB, at least 3×3, and the key is not
    used.

    >>> images = jax.random.uniform(jax.random.key(0), (1, 6, 7, 3))
    >>> score = lambda x: x.mean((1, 2, 3))
    >>> attacked = Korhonen(steps=3, score_scale=1.0)(score, images, jax.random.key(0))
    >>> bool(score(attacked)[0] > score(images)[0])
    True

    Reference: Korhonen and You, "Adversarial attacks against blind image quality assessment models", QoEVMA 2022.

    **Differs from the paper**: the score is raised instead of moved to a target score; the mask scales Adam's step
    instead of the gradient, since Adam divides out a scale of the gradient.
    """

    strength: ClassVar[str] = "step_size"

    _: KW_ONLY
    step_size: Number = 5e-3
    score_scale: Number = 100.0
    steps: int | None = static(None)
    variant: str = static("paper")
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        complete(self, {"paper": {"steps": 50}, "benchmark": {"steps": 10}})

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, _ = begin(towards(self, score_fn, images), score_fn, images, key, minimum=3)
        run = {"paper": _best_of_masked_steps, "benchmark": _masked_gradients}[self.variant]
        options = (score_fn, self.step_size, 1 / self.score_scale, self.objective)
        attacked = run(images, self.steps, options)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


def spatial_activity(image: Image) -> Float[Array, "h w"]:
    """Return the paper's mask, in [0, 1]: dilated squared Sobel magnitude, divided by its largest value.

    >>> float(spatial_activity(jnp.full((4, 5, 3), 0.5)).max())
    0.0
    """
    plane = luma(image)
    return _relative(sobel(plane, 0) ** 2 + sobel(plane, 1) ** 2)


def signed_activity(image: Image) -> Float[Array, "h w"]:
    """Return the benchmark's mask, at most 1, also negative: the dilated Sobel derivative along rows only.

    >>> step = jnp.zeros((9, 13, 3)).at[:, 3:9].set(1.0)
    >>> signed_activity(step)[4].tolist()  # a rise, and a fall that the dilation narrows
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    return _relative(sobel(luma(image), 1))


def _relative(edges):
    inner = jnp.zeros_like(edges).at[1:-1, 1:-1].set(edges[1:-1, 1:-1])
    peak = inner.max()
    return dilate(inner / jnp.where(peak == 0, 1.0, peak))


@jax.jit
def _masks(images):
    return jax.vmap(spatial_activity)(images)[..., None], jax.vmap(signed_activity)(images)[..., None]


def _best_of_masked_steps(images, steps, options):
    masks, _ = _masks(images)
    state = (images, _adam.init(images), images, jnp.full(len(images), -jnp.inf, images.dtype))
    # One step more than moves: each step scores the result of the last one.
    _, _, best, values = iterate(_step, state, steps + 1, masks, *options)
    return _unless_failed(best, values)


@jax.jit
def _step(state, masks, score_fn, step_size, score_weight, objective):
    images, adam, best, best_values = state
    values, gradients = values_and_gradients(lambda x: objective.value(checked_scores(score_fn, x)), images)
    best = jnp.where((values > best_values)[:, None, None, None], images, best)
    direction, adam = _adam.update(score_weight * gradients, adam)
    images = jnp.clip(images + step_size * masks * direction, 0, 1)
    return images, adam, best, jnp.maximum(values, best_values)  # stays NaN after a score that is not finite


@jax.jit
def _unless_failed(best, values):
    return jnp.where(jnp.isnan(values)[:, None, None, None], jnp.nan, best)


def _masked_gradients(images, steps, options):
    _, masks = _masks(images)
    images, _ = iterate(_benchmark_step, (images, _adam.init(images)), steps, masks, *options)
    return images


@jax.jit
def _benchmark_step(state, masks, score_fn, step_size, score_weight, objective):
    images, adam = state
    gradients = per_image_gradient(lambda x: objective.value(checked_scores(score_fn, x)), images)
    direction, adam = _adam.update(masks / 255 * score_weight * gradients, adam)
    return jnp.clip(images + step_size * direction, 0, 1), adam
