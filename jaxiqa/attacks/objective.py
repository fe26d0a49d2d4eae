"""What an attack wants of the scores: raise them, lower them, bring them to a value, or past another picture's."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.threat import Number
from jaxiqa.checks import check_choice
from jaxiqa.types import Scores

Values = Number | Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Push:
    """Raise ``sign · score``: the higher the better for the attack, without end, or until the score passes ``until``.

    Args:
        sign: 1 to raise, −1 to lower; one number, or one per image.
        until: the score past which a black-box attack leaves an image alone; gradient attacks take all their steps.
    """

    sign: Values = 1.0
    until: Values = float("inf")

    def value(self, scores: Scores) -> Scores:
        """What the attack maximises, per image."""
        return self.sign * scores

    def reached(self, scores: Scores) -> jax.Array:
        """Whether an image needs no more work."""
        return self.sign * scores > self.sign * self.until


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MoveTo:
    """Bring the score to a given one: maximise ``−|score − target|``.

    Args:
        target: the score wanted; one number, or one per image.
        within: distance at which a black-box attack leaves an image alone.

    >>> MoveTo(50.0, within=1.0).value(jnp.array([48.0, 53.0])).tolist()
    [-2.0, -3.0]
    """

    target: Values
    within: Values = 0.0

    def value(self, scores: Scores) -> Scores:
        """What the attack maximises, per image."""
        return -jnp.abs(scores - self.target)

    def reached(self, scores: Scores) -> jax.Array:
        """Whether an image needs no more work."""
        return jnp.abs(scores - self.target) < self.within


Objective = Push | MoveTo

NAMED = {"raise": Push(), "lower": Push(-1.0, float("-inf"))}


def as_objective(objective: Objective | str) -> Objective:
    """``"raise"``, ``"lower"`` or an objective that is one already.

    Raises:
        ValueError: another word.

    >>> as_objective("lower").value(jnp.array([3.0])).tolist()
    [-3.0]
    """
    if isinstance(objective, str):
        check_choice("objective", objective, NAMED)
        return NAMED[objective]
    return objective


def outrank(scores: Scores, others: Scores) -> Push:
    """Flip the ranking of pairs: each image is raised past, or lowered below, the picture it is paired with.

    Args:
        scores: clean scores of the images that will be attacked.
        others: scores of their partners, which stay as they are.

    Raises:
        ValueError: another number of partners.

    >>> outrank(jnp.array([40.0, 70.0]), jnp.array([60.0, 60.0])).sign.tolist()
    [1.0, -1.0]
    """
    if np.shape(scores) != np.shape(others):
        raise ValueError(f"others has shape {np.shape(others)}; expected one score per image, {np.shape(scores)}")
    return Push(jnp.where(scores <= others, 1.0, -1.0), others)
