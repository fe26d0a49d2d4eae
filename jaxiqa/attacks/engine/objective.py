"""What an attack wants of the scores: raise them, lower them, bring them to a value, or past another picture's."""

import numbers
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.types import Scores

Values = Number | Scores | np.ndarray | list[float] | list[int] | tuple[float, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Maximize:
    """Raise ``sign · score``: the higher the better for the attack, without end, or until the score passes ``until``.

    Args:
        sign: 1 to raise, −1 to lower; one number, or one per image.
        threshold: the score past which a black-box attack leaves an image alone; infinite, of either sign, is never.
            Gradient attacks take all their steps.

    Raises:
        ValueError: another sign, or ``until`` is no number.

    >>> Maximize([1, -1]).reached(jnp.array([3.0, 3.0])).tolist()
    [False, False]
    """

    sign: Values = 1.0
    threshold: Values = float("inf")

    def __post_init__(self) -> None:
        _as_arrays(self, "sign", "threshold")
        if not is_traced(self.sign) and not _all(self.sign, lambda sign: np.abs(sign) == 1):
            raise ValueError(f"sign={self.sign!r} is not allowed; expected 1 to raise or -1 to lower the score")
        if not is_traced(self.threshold) and not _all(self.threshold, lambda threshold: ~np.isnan(threshold)):
            raise ValueError(f"threshold={self.threshold!r} is not a number")

    def value(self, scores: Scores) -> Scores:
        """What the attack maximises, per image."""
        sign: Any = self.sign  # a number or an array since __post_init__
        return sign * scores

    def reached(self, scores: Scores) -> jax.Array:
        """Whether an image needs no more work."""
        sign: Any = self.sign
        threshold: Any = self.threshold
        return jnp.isfinite(threshold) & (sign * scores > sign * threshold)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Target:
    """Bring the score to a given one: maximise ``−|score − target|``.

    A step may carry the score past the target. So a gradient attack pushes the score to that side with all its steps,
    and answers with the image on the straight line from the clean to its last one whose score is nearest to the target
    (`jaxiqa.attacks.engine.gradients.nearest_on_line`); NES answers with its nearest iterate. No image ends further
    from the target than it began.

    Args:
        target: the score wanted; one number, or one per image.
        tolerance: distance at which a black-box attack leaves an image alone, ≥ 0.

    Raises:
        ValueError: a target that is not finite, or ``within`` below 0.

    >>> Target(50.0, tolerance=1.0).value(jnp.array([48.0, 53.0])).tolist()
    [-2.0, -3.0]
    """

    target: Values
    tolerance: Values = 0.0

    def __post_init__(self) -> None:
        _as_arrays(self, "target", "tolerance")
        if not is_traced(self.target) and not _all(self.target, np.isfinite):
            raise ValueError(f"target={self.target!r} is not allowed; expected finite scores")
        check_number("tolerance", self.tolerance, 0.0)

    def value(self, scores: Scores) -> Scores:
        """What the attack maximises, per image."""
        target: Any = self.target  # a number or an array since __post_init__
        return -jnp.abs(scores - target)

    def reached(self, scores: Scores) -> jax.Array:
        """Whether an image needs no more work."""
        target: Any = self.target
        tolerance: Any = self.tolerance
        return jnp.abs(scores - target) < tolerance


Objective = Maximize | Target


def _as_arrays(objective: Any, *names: str) -> None:
    """Numbers become floats, and lists, one number per image, arrays: a list would be a pytree of its own."""
    for name in names:
        value = getattr(objective, name)
        if isinstance(value, bool | str):
            raise ValueError(f"{name}={value!r} is not a number")
        if isinstance(value, int):
            object.__setattr__(objective, name, float(value))
        if isinstance(value, list | tuple | np.ndarray):
            object.__setattr__(objective, name, jnp.asarray(value, float))


def _all(value: Any, condition: Any) -> bool:
    """Whether every number fulfils it; what JAX puts in the place of a leaf does."""
    given = isinstance(value, numbers.Number) or hasattr(value, "__array__")
    return not given or bool(np.all(condition(np.asarray(value))))


def check_objective(objective: Any, count: int) -> None:
    """Raise ``ValueError`` unless what the objective says of single images is said of ``count`` of them.

    >>> check_objective(Maximize([1, -1, 1]), 2)
    Traceback (most recent call last):
    ValueError: objective.sign has shape (3,) for 2 images; expected one number, or one per image
    """
    for name, value in vars(objective).items():
        if np.shape(value) not in ((), (count,)):
            expected = "expected one number, or one per image"
            raise ValueError(f"objective.{name} has shape {np.shape(value)} for {count} images; {expected}")


NAMED = {"raise": Maximize(), "lower": Maximize(-1.0)}


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
    if isinstance(objective, bool | int | float):
        names = ", ".join(map(repr, NAMED))
        raise ValueError(f"objective={objective!r} is not allowed; choose from {names}, or Target({objective!r})")
    return objective


def outrank(scores: Scores, others: Scores) -> Maximize:
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
    return Maximize(jnp.where(scores <= others, 1.0, -1.0), others)
