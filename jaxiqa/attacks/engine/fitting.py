"""Fit the variables of an attack to images: minibatches, steps, progress, and the step of the first NaN."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxiqa.attacks.engine.objective import Objective, as_objective, check_objective
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_number
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import as_pytree, beside
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, PRNGKey, ScoreFn

Progress = Callable[[int, int, str], Any]
"""Called after every step as ``progress(steps done, total steps, note)``; the note is the mean objective."""


def unbounded(variables: Any, epsilon: Number) -> Any:
    """Return the variables unchanged: for variables that give an allowed perturbation whatever their values."""
    del epsilon
    return variables


class Learner(NamedTuple):
    """What is fitted and how. Use module-level functions, so that equal learners share one compiled step.

    Attributes:
        perturb: ``perturb(variables, images, epsilon) -> images``, both ``b h w c`` in [0, 1].
        optimiser: optax transformation without a learning rate; its steps have size about one.
        bound: ``bound(variables, epsilon) -> variables``, applied after every step.
    """

    perturb: Callable[[Any, Images, Number], Images]
    optimiser: optax.GradientTransformation
    bound: Callable[[Any, Number], Any] = unbounded


def fit(
    learner: Learner,
    variables: Any,
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    epsilon: float,
    step_size: float,
    epochs: int,
    batch_size: int,
    objective: Objective | str = "raise",
    progress: Progress | None = None,
) -> Any:
    """Fit the variables by ``epochs`` passes over the images, so that they raise the mean of

        objective(f(perturb(variables, x_i, epsilon)))

    Args:
        learner: see `Learner`.
        variables: pytree of floating arrays to start from.
        score_fn: the metric.
        images: ``n h w c`` in [0, 1].
        key: random key of the order of the images, which is new in every epoch.
        epsilon: passed to ``perturb`` and ``bound``.
        step_size: learning rate, ≥ 0.
        epochs: passes over the images, ≥ 1.
        batch_size: images per step; the last batch of an epoch is filled up from the epoch's first images.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        progress: see `Progress`; without it, the host does not wait for the accelerator within an epoch.

    Returns:
        The fitted variables.

    Raises:
        ValueError: an option or the images are out of range; or scores or gradients were not finite: found at the end
            of the epoch, the message names the first such step and its images.

    >>> learner = Learner(lambda delta, x, epsilon: x + delta, optax.identity())
    >>> score = lambda x: -((x - 1) ** 2).mean((1, 2, 3))
    >>> options = dict(epsilon=1.0, step_size=0.25, epochs=20, batch_size=2)
    >>> fit(learner, jnp.zeros(()), score, jnp.full((2, 1, 1, 3), 0.5), jax.random.key(0), **options).round(3)
    Array(0.5, dtype=float32)
    """
    check_unit_images(images)
    check_number("epsilon", epsilon, 0.0)
    check_number("epochs", epochs, 1)
    check_number("batch_size", batch_size, 1)
    check_number("step_size", step_size, 0.0)
    goal, score_fn = as_objective(objective), as_pytree(score_fn)
    check_objective(goal, len(images))
    images = jnp.asarray(images).astype(jnp.promote_types(images.dtype, jnp.float32))
    goal, score_fn, variables = beside(images, (goal, score_fn, variables))
    batch_size = min(batch_size, len(images))
    batches = math.ceil(len(images) / batch_size)
    state = (variables, learner.optimiser.init(variables), jnp.int32(0))
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(images)))
        order = np.resize(order, batches * batch_size).reshape(batches, batch_size)
        for done, indices in enumerate(order, start=epoch * batches):
            options = (epsilon, step_size, done)
            state, value = _step(state, images[indices], score_fn, _of(goal, indices), options, learner=learner)
            if progress is not None:
                progress(done + 1, epochs * batches, f"mean objective {float(value):.4g}")
        if (failed := int(state[2])) <= done:
            raise ValueError(
                f"score_fn gave non-finite scores or gradients at step {failed + 1} of {epochs * batches}, on images "
                f"{', '.join(map(str, order[failed - epoch * batches]))} of the fitting set"
            )
    return state[0]


def _of(goal: Any, indices: np.ndarray) -> Any:
    """Select the objective of these images: its per-image values are in the order of all images."""
    return jax.tree.map(lambda leaf: leaf[indices] if np.ndim(leaf) else leaf, goal)


@partial(jax.jit, static_argnames="learner")
def _step(state, images, score_fn, goal, options, *, learner):
    variables, memory, finite_steps = state
    epsilon, step_size, done = options

    def loss(variables):
        return -jnp.mean(goal.value(checked_scores(score_fn, learner.perturb(variables, images, epsilon))))

    value, gradient = jax.value_and_grad(loss)(variables)
    finite = jnp.isfinite(value)
    for leaf in jax.tree.leaves(gradient):
        finite &= jnp.isfinite(leaf).all()
    update, memory = learner.optimiser.update(gradient, memory)
    variables = jax.tree.map(lambda old, step: old - step_size * step, variables, update)
    # Counts on the device up to the first failure, so that the loop need not wait for every step.
    finite_steps += finite & (finite_steps == done)
    return (learner.bound(variables, epsilon), memory, finite_steps), -value


VARIANTS = ("paper", "benchmark")
