"""Auto-PGD: projected gradient ascent with momentum and an adaptive step size."""

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, towards, values_and_gradients
from jaxiqa.attacks.engine.loop import check_steps, iterate
from jaxiqa.attacks.engine.objective import Objective, as_objective
from jaxiqa.attacks.engine.threat_model import Ball, Image, Number
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn

MOMENTUM = 0.75  # the paper's α: share of the new step
RISING = 0.75  # the paper's ρ: share of a window's steps that must rise


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class APGD(Attack):
    """APGD: projected gradient ascent with momentum; its step size η starts at 2ε and is halved if progress stops,

        z ← Π(x + η · u(∇f(x))),    x ← Π(x + α (z − x) + (1 − α) (x − x_previous)),    α = 0.75 (first step: 1)

    with ``u`` and ``Π`` as in `jaxiqa.attacks.pgd.PGD`. At the end of each window of steps (`windows`), η of an image
    is halved and the image returns to its best point, with the gradient stored there, if one of these holds: fewer
    than 75 % of the window's steps raised the score; or η was not halved after the last window and the best score has
    not risen since. The result is the best image found.

    Args:
        epsilon: radius of the ball around the clean image. Linf: in [0, 1] pixel units, written ``8 / 255``;
            L2: Euclidean norm of the whole perturbation, in the same units. A pytree leaf.
        steps: number of steps, >= 1; each takes one gradient, and the start takes one more.
        norm: ``"linf"`` or ``"l2"``.
        random_start: start at a random point of the ball (a key per image) instead of at the clean image.
        restarts: number of runs from different starts; each image keeps its best run. More than one run needs
            ``random_start``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> attacked = APGD(8 / 255, steps=5)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print((255 * (attacked - images)).min().round(3))
    8.0

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", arXiv:2003.01690.

    **Differs from the paper**: the score replaces the classification loss. As in the authors' code, the check of a
    window uses the step that ends it, and the return to the best point saves a gradient. Unlike that code, the first
    window is not compared with a row of zeros. L2 steps are projected onto ball and box jointly.
    """

    epsilon: Number
    _: KW_ONLY
    steps: int = static(100)
    norm: str = static("linf")
    random_start: bool = static(True)
    restarts: int = static(1)
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        Ball(self.epsilon, norm=self.norm)  # checks both
        check_steps(self.steps)
        if self.restarts < 1 or (self.restarts > 1 and not self.random_start):
            raise ValueError(f"restarts={self.restarts} is not allowed; expected 1, or more with random_start")
        object.__setattr__(self, "objective", as_objective(self.objective))

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, key = begin(towards(self, score_fn, images), score_fn, images, key)
        ball = Ball(self.epsilon, norm=self.norm)
        keys = image_keys(key, len(images))
        constants = (images, score_fn, ball, jnp.asarray(windows(self.steps)), self.objective)
        best, values = images, jnp.full(len(images), -jnp.inf, images.dtype)
        for restart in range(self.restarts):
            start = _start(images, keys, restart, ball) if self.random_start else images
            # One step more than moves: each step scores the result of the last one.
            _, search = iterate(_step, _begin(start, ball), self.steps + 1, *constants)
            best, values = _keep_better(best, values, search.best, search.best_value)
        return finish(nearest_on_line(wanted, score_fn, images, best), given)


def windows(steps: int) -> Int[np.ndarray, " n"]:
    """Return, for every step from 0 on, the length of the window that ends there, or 0.

    Windows end at steps ``⌈p_j · steps⌉`` with p_0 = 0, p_1 = 0.22 and
    ``p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)``.

    >>> np.flatnonzero(windows(100)).tolist()
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    lengths = np.zeros(steps + 1, np.int32)
    last, percent, width = 0, 22, 22
    while percent <= 100:
        end = -(-percent * steps // 100)
        if end > last:
            lengths[end] = end - last
        last, width = end, max(width - 3, 6)
        percent += width
    return lengths


class _Search(NamedTuple):
    """The state of the search of one image."""

    image: Image
    previous: Image
    step_size: Float[Array, ""]
    value: Float[Array, ""]  # of the last point
    best: Image
    best_gradient: Image
    best_value: Float[Array, ""]
    rises: Int[Array, ""]  # steps of this window that raised the score
    best_before: Float[Array, ""]  # best value when the window began
    halved: Bool[Array, ""]  # whether the last window halved the step


@jax.jit
def _start(clean, keys, restart, ball):
    return jax.vmap(lambda key, image: ball.start(jax.random.fold_in(key, restart), image))(keys, clean)


@jax.jit
def _begin(start, ball):
    infinity = jnp.asarray(jnp.inf, start.dtype)

    def one(image):
        step = jnp.asarray(2 * ball.epsilon, image.dtype)
        zeros = jnp.zeros_like(image)
        return _Search(image, image, step, infinity, image, zeros, -infinity, jnp.int32(0), -infinity, jnp.bool(False))

    return jnp.int32(0), jax.vmap(one)(start)


@jax.jit
def _step(state, clean, score_fn, ball, lengths, objective):
    count, search = state
    values, gradients = values_and_gradients(lambda x: objective.value(checked_scores(score_fn, x)), search.image)

    def one(search, clean, value, gradient):
        return _advance(search, clean, value, gradient, ball, lengths[count], count == 0)

    return count + 1, jax.vmap(one)(search, clean, values, gradients)


def _advance(search, clean, value, gradient, ball, length, first):
    """Run one step of one image, given its value and gradient; ``length``: of the window that ends here, or 0."""
    rises = search.rises + (value > search.value)
    better = value > search.best_value
    best = jnp.where(better, search.image, search.best)
    best_gradient = jnp.where(better, gradient, search.best_gradient)
    best_value = jnp.maximum(search.best_value, value)  # stays NaN after a score that is not finite

    ended = length > 0
    stalled = ~search.halved & (best_value == search.best_before)
    halve = ended & ((rises < RISING * length) | stalled)
    step_size = jnp.where(halve, search.step_size / 2, search.step_size)
    image = jnp.where(halve, best, search.image)
    gradient = jnp.where(halve, best_gradient, gradient)

    share = jnp.where(first, 1.0, MOMENTUM)
    target = ball.project(image + step_size * ball.steepest(gradient), clean)
    moved = image + share * (target - image) + (1 - share) * (image - search.previous)
    return _Search(
        image=ball.project(moved, clean),
        previous=image,
        step_size=step_size,
        value=jnp.where(halve, best_value, value),
        best=best,
        best_gradient=best_gradient,
        best_value=best_value,
        rises=jnp.where(ended, 0, rises),
        best_before=jnp.where(ended | first, best_value, search.best_before),
        halved=jnp.where(ended, halve, search.halved),
    )


@jax.jit
def _keep_better(best, values, found, found_values):
    def one(best, value, found, found_value):
        result = jnp.where(found_value > value, found, best)
        highest = jnp.maximum(value, found_value)
        return jnp.where(jnp.isnan(highest), jnp.nan, result), highest

    return jax.vmap(one)(best, values, found, found_values)
