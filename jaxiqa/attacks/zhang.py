"""Zhang's perceptual attack: raise the score, with a penalty by a full-reference metric on the change."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, per_image_gradient, towards
from jaxiqa.attacks.engine.loop import iterate
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.threat_model import Number, steepest_step
from jaxiqa.attacks.engine.variants import complete
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn

_adam = optax.scale_by_adam()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Zhang(Attack):
    """Perceptual attack: gradient ascent, with steps of constant length, on

        J(x) = f(x) / score_scale − distance_weight · D(x, clean)
        x ← clip(x + step_size · √n · ∇J(x) / ‖∇J(x)‖₂, 0, 1)

    from the clean image with 1/255 subtracted from random values, where the gradient of every D is defined. There is
    no ε: the distance limits the change.

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541, with DISTS: 10 steps of Adam on
    −J from the clean image, each clipped to [0, 1]. The presets, weak to strong, are step sizes of about 0.0008, 0.0016
    and 0.0031.

    Args:
        distance: D, ``(images, clean) -> b``, each ``b h w c`` in [0, 1], zero for equal images; differentiable.
            As with ``score_fn``, the weights of a pytree (`jax.tree_util.Partial`) are traced.
        step_size: length of a step: its RMSE, or under ``"benchmark"`` Adam's learning rate, in [0, 1] pixel units;
            a pytree leaf; None is 0.001, or 0.005.
        distance_weight: weight of D; a pytree leaf.
        score_scale: width of the metric's scale (100 for scores from 0 to 100); a pytree leaf.
        steps: number of steps, >= 1; None is 200, or 10.
        variant: ``"paper"`` or ``"benchmark"``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> distance = lambda x, clean: jnp.mean((x - clean) ** 2, (1, 2, 3))
    >>> attack = Zhang(distance, score_scale=1.0, distance_weight=10.0)
    >>> attacked = attack(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print(f"{float((attacked - images).mean()):.2f}")  # d − 10 d² is largest at 1/20
    0.05

    Reference: Zhang et al., "Perceptual attacks of no-reference image quality models with human-in-the-loop",
    arXiv:2210.00933.

    **Differs from the paper**: the score moves in a given direction; the paper maximises its squared change, so the
    direction is random. Steps follow the normalised gradient; the paper starts a new Adam at every step, which gives
    nearly its sign. The gradient at the corners is not set to zero.
    """

    strength: ClassVar[str] = "step_size"

    distance: Callable[..., Any]
    _: KW_ONLY
    step_size: Number | None = None
    distance_weight: Number = 1.0
    score_scale: Number = 100.0
    steps: int | None = static(None)
    variant: str = static("paper")
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        # a pytree, so that the attack itself may enter a jit
        object.__setattr__(self, "distance", trained("distance", self.distance))
        complete(self, {"paper": {"step_size": 1e-3, "steps": 200}, "benchmark": {"step_size": 5e-3, "steps": 10}})

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, key = begin(towards(self, score_fn, images), score_fn, images, key)
        weights = (1 / self.score_scale, self.distance_weight)
        assert self.steps is not None  # since __post_init__
        constants = (images, score_fn, self.distance, weights, self.step_size, self.objective)
        if self.variant == "paper":
            attacked = iterate(_step, _start(images, image_keys(key, len(images))), self.steps, *constants)
        else:
            state = (images, _adam.init(images))
            attacked, _ = iterate(_benchmark_step, state, self.steps, *constants)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


@jax.jit
def _start(images, keys):
    noise = jax.vmap(lambda key, image: jax.random.bernoulli(key, shape=image.shape))(keys, images)
    return jnp.clip(images - noise / 255, 0, 1)


def _gradients(images, clean, score_fn, distance, weights, objective):
    score_weight, distance_weight = weights

    def value(x):
        scores = score_weight * objective.value(checked_scores(score_fn, x))
        return scores - distance_weight * checked_scores(lambda x: distance(x, clean), x)

    return per_image_gradient(value, images)


@jax.jit
def _step(images, clean, score_fn, distance, weights, step_size, objective):
    gradients = _gradients(images, clean, score_fn, distance, weights, objective)
    directions = jax.vmap(lambda gradient: gradient.size**0.5 * steepest_step(gradient, "l2"))(gradients)
    return jnp.clip(images + step_size * directions, 0, 1)


@jax.jit
def _benchmark_step(state, clean, score_fn, distance, weights, step_size, objective):
    images, adam = state
    direction, adam = _adam.update(_gradients(images, clean, score_fn, distance, weights, objective), adam)
    return jnp.clip(images + step_size * direction, 0, 1), adam
