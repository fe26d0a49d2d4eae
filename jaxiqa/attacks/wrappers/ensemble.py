"""Several score functions as one, so that any attack attacks all of them, or one of them that it cannot see."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.gradients import values_and_gradients
from jaxiqa.core.checks import check_number
from jaxiqa.core.pytrees import as_pytree
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn, Scores


def ensemble(members: Sequence[ScoreFn], *, scales: Sequence[float] | None = None) -> jax.tree_util.Partial:
    """Create a score function of which every gradient attack is a transfer attack by an ensemble.

    Its score is the mean of ``scoreᵢ / scaleᵢ`` over the members. Its gradient is not that of the mean, which would be
    the gradient of the steepest member alone, but the mean of the members' gradients, each divided by its l2 norm:
    ``∇ = 1/m Σ ∇fᵢ / ‖∇fᵢ‖₂`` per image. A member whose gradient is zero adds nothing.

    Args:
        members: score functions ``b h w c -> b``; jitted code takes their weights as arguments.
        scales: the unit of each member's score, such as the deviation of its clean scores, > 0; None: 1 for all.

    Returns:
        A score function ``b h w c -> b``. It is differentiable once, in reverse mode.

    Raises:
        TypeError: ``members`` is no list or tuple.
        ValueError: no members, or scales that are not one positive number per member.

    In the spirit of "SEGA: A Transferable Signed Ensemble Gaussian Black-Box Attack against No-Reference Image Quality
    Assessment Models", arXiv:2509.18546, which also averages each gradient over Gaussian noise.

    >>> bright, steep = (lambda x: x.mean((1, 2, 3))), (lambda x: 1000 * x[:, 0, 0, 0])
    >>> both = ensemble([bright, steep])
    >>> gradient = jax.grad(lambda x: both(x).sum())(jnp.full((1, 2, 2, 3), 0.5))
    >>> print(gradient[0, 0, 0].round(2), gradient[0, 1, 1].round(2))
    [0.64 0.14 0.14] [0.14 0.14 0.14]
    """
    if not isinstance(members, Sequence):
        raise TypeError(f"members is a {type(members).__name__}; expected a list of score functions")
    if not members:
        raise ValueError("members is empty; expected at least one score function")
    units = np.ones(len(members)) if scales is None else np.asarray(scales, float)
    if units.shape != (len(members),):
        raise ValueError(f"scales has shape {units.shape}; expected one number per member, ({len(members)},)")
    for unit in units:
        check_number("scales", float(unit), 0.0, open_low=True)
    return jax.tree_util.Partial(_joint, tuple(as_pytree(member) for member in members), jnp.asarray(units))


@jax.custom_vjp
def _joint(members: tuple[Any, ...], units: jax.Array, images: Images) -> Scores:
    scores = [checked_scores(member, images) / unit for member, unit in zip(members, units, strict=True)]
    return jnp.stack(scores).mean(0)


def _forward(members: tuple[Any, ...], units: jax.Array, images: Images) -> tuple[Scores, Images]:
    scores, directions = [], []
    for member, unit in zip(members, units, strict=True):
        values, gradients = values_and_gradients(lambda x, member=member: checked_scores(member, x), images)
        norms = jnp.sqrt(jnp.square(gradients).sum((1, 2, 3), keepdims=True))
        directions.append(gradients / jnp.where(norms == 0, 1, norms))
        scores.append(values / unit)
    return jnp.stack(scores).mean(0), jnp.stack(directions).mean(0)


def _backward(directions: Images, cotangent: Scores) -> tuple[None, None, Images]:
    return None, None, directions * cotangent[:, None, None, None]


_joint.defvjp(_forward, _backward)
