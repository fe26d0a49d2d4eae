"""Universal adversarial perturbations: one pattern, fitted on some images, for all others of their size."""

import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float

from jaxiqa.attacks.batch import Keys, as_pytree, check_clean, checked_scores
from jaxiqa.attacks.objective import Objective, as_objective
from jaxiqa.checks import check_number
from jaxiqa.types import Images, PRNGKey, ScoreFn

_adam = optax.scale_by_adam()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UAP:
    """Add one fixed perturbation: ``clip(x + delta, 0, 1)``.

    Args:
        delta: ``h w c``, from `fit_uap`.

    Calling it takes and returns what `jaxiqa.attacks.pgd.PGD` does; neither score function nor key is used.

    Raises:
        ValueError: the images have another size than ``delta``.

    >>> images = jnp.full((1, 2, 3, 3), 0.5)
    >>> float(UAP(jnp.full((2, 3, 3), 0.25))(None, images, jax.random.key(0))[0, 0, 0, 0])
    0.75
    """

    delta: Float[Array, "h w c"]

    def __call__(self, score_fn: ScoreFn | None, images: Images, key: Keys) -> Images:
        del score_fn, key
        check_clean(images)
        if images.shape[1:] != self.delta.shape:
            raise ValueError(f"images are {images.shape[1:]}, the perturbation was fitted for {self.delta.shape}")
        return jnp.clip(images + self.delta, 0, 1)


def fit_uap(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    epsilon: float,
    epochs: int = 10,
    batch_size: int = 8,
    step_size: float | None = None,
    objective: Objective | str = "raise",
) -> UAP:
    """The perturbation with ‖δ‖∞ ≤ ε that raises the mean score of ``images`` most: Adam, clipped after every step.

        max over δ of mean_i f(clip(x_i + δ, 0, 1))

    Args:
        score_fn: the metric.
        images: ``n h w c`` in [0, 1], to fit on; evaluate on others.
        key: order of the images.
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``.
        epochs: passes over the images, ≥ 1.
        batch_size: images per step; the last batch of an epoch is filled up from the epoch's first images.
        step_size: Adam's learning rate; ``epsilon / 10`` by default.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.objective`.

    Raises:
        ValueError: an option out of range, or a score function that gives non-finite gradients.

    >>> images = jnp.full((4, 3, 5, 3), 0.5)
    >>> uap = fit_uap(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0), epsilon=8 / 255)
    >>> print(jnp.round(255 * uap.delta.min(), 3))
    8.0

    Reference: Moosavi-Dezfooli et al., arXiv:1610.08401; for quality metrics, Shumitskaya et al., arXiv:2207.13692.

    **Differs from the paper**: the mean score is raised by gradient steps (the "optimised" form), since a score has no
    class boundary to cross.
    """
    check_clean(images)
    check_number("epsilon", epsilon, 0.0, 1.0)
    check_number("epochs", epochs, 1)
    check_number("batch_size", batch_size, 1)
    goal = as_objective(objective)
    rate = epsilon / 10 if step_size is None else step_size
    count = len(images)
    batch_size = min(batch_size, count)
    score_fn = as_pytree(score_fn)
    delta = jnp.zeros(images.shape[1:], images.dtype)
    state = (delta, _adam.init(delta))
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count))
        steps = math.ceil(count / batch_size)
        order = np.resize(order, steps * batch_size).reshape(steps, batch_size)
        for indices in order:
            state = _step(state, images[indices], score_fn, epsilon, rate, goal)
    if not jnp.isfinite(state[0]).all():
        raise ValueError("score_fn gave non-finite scores or gradients on images of the fitting set")
    return UAP(state[0])


@jax.jit
def _step(state, images, score_fn, epsilon, rate, goal):
    delta, adam = state

    def objective(delta):
        return -jnp.mean(goal.value(checked_scores(score_fn, jnp.clip(images + delta, 0, 1))))

    value, gradient = jax.value_and_grad(objective)(delta)
    gradient = jnp.where(jnp.isfinite(value) & jnp.isfinite(gradient).all(), gradient, jnp.nan)
    update, adam = _adam.update(gradient, adam)
    return jnp.clip(delta - rate * update, -epsilon, epsilon), adam


def save(attack: UAP, path: str | Path) -> None:
    """Write a fitted perturbation to a ``.safetensors`` file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    safetensors.numpy.save_file({"delta": np.asarray(attack.delta)}, temporary)
    temporary.replace(path)


def load(path: str | Path) -> UAP:
    """Read what `save` wrote; ``ValueError`` names a file that is damaged or holds something else."""
    try:
        arrays = safetensors.numpy.load_file(path)
        return UAP(jnp.asarray(arrays["delta"]))
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: not a fitted perturbation: {error!r}") from error
