"""Attack objectives: raise or lower the score, reach a target score, outrank another image."""

import numbers
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.halves import low_half
from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.types import Scores

Values = Number | Scores | np.ndarray | list[float] | list[int] | tuple[float, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Maximize:
    """Maximise ``sign · score``, without limit or until the score passes ``threshold``.

    Args:
        sign: 1 to raise, −1 to lower; one number, or one per image.
        threshold: score at which a black-box attack stops work on an image; ±infinity: never. Gradient attacks take
            all their steps.

    Raises:
        ValueError: ``sign`` is not ±1, or ``threshold`` is not a number.

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
    """Bring the score to a target: maximise ``−|score − target|``.

    A step may overshoot. So a gradient attack moves the score towards the target with all its steps. It returns the
    image on the straight line from the clean to the last image whose score is nearest to the target
    (`jaxiqa.attacks.engine.gradients.nearest_on_line`). NES returns its nearest iterate. No image ends further from
    the target than it began.

    Args:
        target: the target score; one number, or one per image.
        tolerance: distance to the target at which a black-box attack stops work on an image, ≥ 0.

    Raises:
        ValueError: ``target`` is not finite, or ``tolerance`` is below 0.

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
    """Convert numbers to floats and lists (one number per image) to arrays, since a list would be a pytree."""
    for name in names:
        value = getattr(objective, name)
        if isinstance(value, bool | str):
            raise ValueError(f"{name}={value!r} is not a number")
        if isinstance(value, int):
            object.__setattr__(objective, name, float(value))
        if isinstance(value, list | tuple | np.ndarray):
            object.__setattr__(objective, name, jnp.asarray(value, float))


def _all(value: Any, condition: Any) -> bool:
    """Return whether all numbers meet the condition; placeholders that JAX puts in place of leaves do."""
    given = isinstance(value, numbers.Number) or hasattr(value, "__array__")
    return not given or bool(np.all(condition(np.asarray(value))))


def check_objective(objective: Any, count: int) -> None:
    """Check that the per-image values of the objective are for ``count`` images; otherwise raise ``ValueError``.

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
    """Return the objective for ``"raise"`` or ``"lower"``, or the given objective itself.

    Raises:
        ValueError: any other word, a number or an array.

    >>> as_objective("lower").value(jnp.array([3.0])).tolist()
    [-3.0]
    """
    if isinstance(objective, str):
        check_choice("objective", objective, NAMED)
        return NAMED[objective]
    if not hasattr(objective, "value") or not hasattr(objective, "reached"):
        names, given = ", ".join(map(repr, NAMED)), objective if np.ndim(objective) == 0 else "..."
        raise ValueError(
            f"objective={objective!r} is not allowed; choose from {names}, Maximize(signs), or Target({given!s})"
        )
    return objective


def outrank(scores: Values, others: Values) -> Maximize:
    """Create the objective that flips the ranking of pairs: each image shall score above, or below, its partner.

    Args:
        scores: clean scores of the images to attack.
        others: scores of their partners, which are not attacked.

    Returns:
        `Maximize` with one sign and one threshold per image.

    Raises:
        ValueError: the shapes differ, or a number is not finite.

    >>> outrank(jnp.array([40.0, 70.0]), jnp.array([60.0, 60.0])).sign.tolist()
    [1.0, -1.0]
    """
    ours, theirs = (_numbers(values) for values in (scores, others))
    if ours.shape != theirs.shape:
        raise ValueError(f"others has shape {theirs.shape}; expected one score per image, {ours.shape}")
    for name, values in (("scores", ours), ("others", theirs)):
        if not is_traced(values) and not np.isfinite(values).all():
            raise ValueError(f"{name} has numbers that are not finite")
    return Maximize(jnp.where(ours <= theirs, 1.0, -1.0), theirs)


def _numbers(values: Any) -> Any:
    return values if is_traced(values) else np.asarray(values, np.float64)


def invert_ranks(order: Values) -> Maximize:
    """Create the objective that turns the order of a set round: raise the images in its low half, lower the others.

    It maximises ``−Σ (orderᵢ − middle) · scoreᵢ``, which is lowest where scores agree with the order. Every image has
    a budget of its own, so the best for all is the best for each: the weight |orderᵢ − middle| changes nothing but the
    image in the middle, which has none and is raised. Equal numbers stay in one half (`jaxiqa.core.halves.low_half`).
    Give the whole set: the middle of a batch is another one.

    Args:
        order: human scores or, where there are none, clean scores of the images to attack, at least two.

    Raises:
        ValueError: fewer than two numbers, numbers that are not finite, or all are equal.

    In the spirit of "Beyond Score Changes: Adversarial Attack on No-Reference Image Quality Assessment from Two
    Perspectives", arXiv:2404.13277.

    >>> invert_ranks([70.0, 20.0, 50.0]).sign.tolist()
    [-1.0, 1.0, 1.0]
    """
    return Maximize(np.where(low_half(_order(order)), 1.0, -1.0))


def mirror_ranks(order: Values, scores: Values) -> Target:
    """Create the objective that gives each image the score at the opposite place of the order.

    The lowest image of ``order`` shall get the highest of the clean scores, the second lowest the second highest, and
    so on. Where all targets are reached, Spearman's correlation with ``order`` is −1; `invert_ranks` goes further with
    every image but leaves the order within both halves.

    Args:
        order: human scores or, where there are none, clean scores of the images to attack; ties keep their places.
        scores: clean scores of these images.

    Raises:
        ValueError: as of `invert_ranks`, or the shapes differ.

    >>> mirror_ranks([70.0, 20.0, 50.0], [7.0, 3.0, 5.0]).target.tolist()
    [3.0, 7.0, 5.0]
    """
    values, clean = _order(order), np.asarray(scores, np.float64)
    if clean.shape != values.shape:
        raise ValueError(f"scores has shape {clean.shape}; expected one score per image, {values.shape}")
    target = np.empty_like(clean)
    target[np.argsort(values, kind="stable")] = np.sort(clean)[::-1]
    return Target(target)


def _order(order: Values) -> np.ndarray:
    values = np.asarray(order, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"order has shape {values.shape}; expected one number per image, at least two")
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("order has numbers that are not finite or are all equal; an order needs different ones")
    return values
