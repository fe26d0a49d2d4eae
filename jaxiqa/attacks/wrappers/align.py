"""Attacks of equal visibility: find the strength at which an attack changes images by a given amount."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.attack import strength_of
from jaxiqa.core.checks import check_choice
from jaxiqa.core.keys import Keys
from jaxiqa.core.types import Images, ScoreFn
from jaxiqa.ops.ssim import psnr, ssim


def linf(clean: Images, attacked: Images) -> jax.Array:
    """Return the largest change of a pixel value, per image."""
    return jnp.abs(attacked - clean).max((1, 2, 3))


MEASURES: dict[str, Callable[[Images, Images], jax.Array]] = {"linf": linf, "ssim": ssim, "psnr": psnr}
"""Name -> ``(clean, attacked) -> b``: the measures of change that strengths can be aligned by."""

LOG_CHANGE: dict[str, Callable[[float], float]] = {
    "linf": lambda value: np.log(max(value, 1e-9)),
    "ssim": lambda value: np.log(max(1 - value, 1e-9)),
    "psnr": lambda value: -min(value, 200.0) * np.log(10) / 20,
}
"""Name -> function from the measure to the natural logarithm of the change, nearly linear in the log strength."""

LEVELS = {
    "linf": {"weak": 2 / 255, "medium": 4 / 255, "strong": 8 / 255},
    "ssim": {"weak": 0.90, "medium": 0.85, "strong": 0.75},
    "psnr": {"weak": 40.0, "medium": 35.0, "strong": 30.0},
}
"""Targets of the defense benchmark ("Guardians of Image Quality", arXiv:2408.01541), named by their effect. The
benchmark numbers them 0, 1, 2: from weak to strong for Linf, from strong to weak for SSIM and PSNR."""


@dataclass(frozen=True)
class Aligned:
    """The result of `align`.

    Attributes:
        attack: the attack at the strength found.
        strength: that strength, in the attack's unit.
        reached: the measure at that strength, a mean over the images.
        target: the given target.
        curve: every (strength, measure) that was run, in ascending order of strength.
    """

    attack: Any
    strength: float
    reached: float
    target: tuple[str, float]
    curve: tuple[tuple[float, float], ...]


def align(
    attack: Any,
    score_fn: ScoreFn,
    images: Images,
    key: Keys,
    target: tuple[str, float],
    *,
    ladder: Sequence[float] | None = None,
    tolerance: float = 0.05,
    refinements: int = 4,
    progress: Callable[[int, int], Any] | None = None,
) -> Aligned:
    """Find the strength at which ``attack`` reaches ``target`` on average over ``images``.

    Run the attack at every strength of ``ladder``. Then interpolate between the two strengths that enclose the target,
    run the attack there, and repeat. Scales of strength and change are logarithmic (of 1 − SSIM; PSNR is logarithmic
    already).

    Args:
        attack: a dataclass; its strength is the field that `jaxiqa.attacks.engine.attack.strength_of` names.
        score_fn, images, key: as for the attack; a few dozen typical images are enough.
        target: ``("linf", 8 / 255)``, ``("ssim", 0.9)`` or ``("psnr", 35)``: see `MEASURES` and `LEVELS`.
        ladder: strengths to start with; by default 1/32 to 16 times the attack's strength, by factors of two, without
            those that the attack does not accept.
        tolerance: accepted relative error of the change: of Linf, of 1 − SSIM, of the amplitude behind PSNR.
        refinements: most interpolations.
        progress: called as ``progress(done, most)`` after every run of the attack.

    Raises:
        ValueError: the measure is unknown, or the ladder does not enclose the target; the message lists the measures
            reached.

    >>> from jaxiqa.attacks.pgd import PGD
    >>> images = jnp.full((1, 12, 12, 3), 0.5)
    >>> score, key = lambda x: x.mean((1, 2, 3)), jax.random.key(0)
    >>> found = align(PGD(0.01, steps=1, random_start=False), score, images, key, ("psnr", 35.0))
    >>> print(round(found.strength, 3), 10 ** (-35 / 20))
    0.018 0.01778279410038923

    Reference: Gushchin et al., "Guardians of Image Quality", arXiv:2408.01541, Figure 2.
    """
    ladder = _default_ladder(attack) if ladder is None else ladder
    run = _Runs(attack, score_fn, images, key, target[0], len(ladder) + refinements, progress)
    return _align(run, target, ladder, tolerance, refinements)


def align_levels(
    attack: Any,
    score_fn: ScoreFn,
    images: Images,
    key: Keys,
    measure: str,
    *,
    ladder: Sequence[float] | None = None,
    tolerance: float = 0.05,
    refinements: int = 4,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Aligned]:
    """Return ``{"weak": Aligned, "medium": …, "strong": …}`` for the targets of `LEVELS`; otherwise as `align`.

    No strength is run twice: all levels share the runs.

    Raises:
        ValueError: as `align`.

    >>> from jaxiqa.attacks.pgd import PGD
    >>> images = jnp.full((1, 12, 12, 3), 0.5)
    >>> score, key = lambda x: x.mean((1, 2, 3)), jax.random.key(0)
    >>> found = align_levels(PGD(0.01, steps=1, random_start=False), score, images, key, "linf")
    >>> {level: round(255 * one.strength) for level, one in found.items()}
    {'weak': 2, 'medium': 4, 'strong': 8}
    """
    check_choice("measure", measure, LEVELS)
    ladder = _default_ladder(attack) if ladder is None else ladder
    levels = LEVELS[measure]
    run = _Runs(attack, score_fn, images, key, measure, len(ladder) + refinements * len(levels), progress)
    return {level: _align(run, (measure, value), ladder, tolerance, refinements) for level, value in levels.items()}


class _Runs:
    """Run the attack, each strength once, and store the measured changes."""

    def __init__(self, attack, score_fn, images, key, measure, most, progress):
        check_choice("target", measure, MEASURES)
        self.attack, self.name, self.arguments = attack, strength_of(attack), (score_fn, images, key)
        self.measure, self.most, self.progress = measure, most, progress
        self.curve: dict[float, float] = {}

    def __call__(self, strength: float) -> None:
        strength = max(1, round(strength)) if _is_whole(self.attack, self.name) else float(strength)
        if strength not in self.curve:
            attacked = self.at(strength)(*self.arguments)
            self.curve[strength] = float(_MEASURED[self.measure](self.arguments[1], attacked).mean())
            if self.progress:
                self.progress(len(self.curve), self.most)

    def at(self, strength: float) -> Any:
        return replace(self.attack, **{self.name: strength})


def _align(
    run: _Runs, target: tuple[str, float], ladder: Sequence[float], tolerance: float, refinements: int
) -> Aligned:
    curve, wanted, amount = run.curve, target[1], LOG_CHANGE[run.measure]

    def error(strength: float) -> float:
        return abs(amount(curve[strength]) - amount(wanted))

    for strength in ladder:
        run(strength)
    for _ in range(refinements):
        if min(map(error, curve)) <= tolerance:
            break
        strengths = sorted(curve)
        pairs = [pair for pair in itertools.pairwise(strengths) if _encloses(curve, pair, wanted)]
        if not pairs:
            reached = ", ".join(f"{s:.3g}: {curve[s]:.3g}" for s in strengths)
            raise ValueError(
                f"no {run.name} of the ladder reaches {run.measure} {wanted} ({reached}); extend the ladder"
            )
        low, high = pairs[0]
        share = (amount(wanted) - amount(curve[low])) / (amount(curve[high]) - amount(curve[low]))
        run(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))
    strength = min(curve, key=error)
    return Aligned(run.at(strength), strength, curve[strength], target, tuple(sorted(curve.items())))


def _is_whole(attack: Any, name: str) -> bool:
    """Return whether the strength is a whole number that decides a shape, such as a number of pixels."""
    return next(field for field in dataclasses.fields(attack) if field.name == name).metadata.get("static", False)


def _default_ladder(attack: Any) -> list[float]:
    name = strength_of(attack)
    return [value for power in range(-5, 5) if _takes(attack, name, value := getattr(attack, name) * 2.0**power)]


def _takes(attack: Any, name: str, value: float) -> bool:
    try:
        replace(attack, **{name: value})
    except ValueError:
        return False
    return True


def _encloses(curve: dict[float, float], pair: tuple[float, float], wanted: float) -> bool:
    return min(curve[s] for s in pair) <= wanted <= max(curve[s] for s in pair)


_MEASURED = {name: jax.jit(function) for name, function in MEASURES.items()}
