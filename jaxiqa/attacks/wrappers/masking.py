"""Checks for gradient masking: signs that an attack fails because of bad gradients, not because of robustness.

A metric that gradient attacks cannot change is robust only if no other attack changes it either. `check_masking` runs
the cheap experiments of "Obfuscated Gradients Give a False Sense of Security", arXiv:1802.00420, and "On Evaluating
Adversarial Robustness", arXiv:1902.06705, on scores instead of classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.apgd import APGD
from jaxiqa.attacks.engine.objective import Objective, as_objective, check_objective
from jaxiqa.attacks.pgd import PGD
from jaxiqa.attacks.square import Square
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import image_keys
from jaxiqa.core.pytrees import as_pytree, beside
from jaxiqa.core.scores import checked_scores, compiled_scores
from jaxiqa.core.types import Images, PRNGKey, ScoreFn, Scores

REMEDIES = {
    "gradient is zero": "use attacks without gradients (square, nes), or `bpda` with a surrogate for the flat part",
    "gradient is not finite": "find the operation (option `jax_debug_nans`); use square or nes",
    "noise beats pgd": "the gradient is not useful: use more restarts, `bpda` and black-box attacks",
    "square beats pgd": "the gradient is misleading: report the stronger attack; try `bpda`, `eot` and restarts",
    "unbounded attack does not saturate": "at ε = 1 the score must change far more: the gradient may be flat; check "
    "`prepare` for rounding and quantisation, use `bpda`",
    "score changes with the key": "the metric is randomised: attack the mean over keys (`eot`), score with many keys",
    "more steps do not help": "the steps overshoot or the gradient is noise: use a smaller step_size, apgd, or `eot`",
}
"""What to do about each flagged check."""

LARGEST = 1e6
"""Cap for ratios, also used if the denominator is not positive."""


@dataclass(frozen=True)
class Check:
    """The result of one experiment: its value, and the limit above which it is a sign of masking (``flagged``)."""

    name: str
    value: float
    limit: float
    flagged: bool

    @property
    def remedy(self) -> str:
        """What to do if the check is flagged."""
        return REMEDIES[self.name]

    def __str__(self) -> str:
        mark = f"MASKED? {self.remedy}" if self.flagged else "passed"
        return f"{self.name}: {self.value:.3g} (limit {self.limit:.3g}): {mark}"


def check_masking(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    epsilon: float = 8 / 255,
    queries: int = 300,
    keyed_score: Callable[[Images, PRNGKey], Scores] | None = None,
    objective: Objective | str = "raise",
) -> tuple[Check, ...]:
    """Run every experiment: about 60 gradients and ``queries`` + 10 scores per image, at most 150 gradients more.

    One attack with a bad step size is no sign of a masked gradient. So before a check is flagged, other gradient
    attacks run one after another, and the best result of each image counts: PGD with more and smaller steps, then
    APGD, which adapts its step size (not in the check against noise).

    - gradient is zero: share of images whose whole gradient is zero.
    - gradient is not finite: share of images whose gradient has a non-finite value; if any, the rest is skipped.
    - noise beats pgd: share of images on which the best of 8 random corners of the ball gains more than gradients.
    - square beats pgd: the same for the Square attack.
    - unbounded attack does not saturate: mean gain of PGD-10 at ε = ``epsilon``, divided by that at ε = 1; 1 means no
      growth. At ε = 1 steps of ``epsilon / 2`` run too, since steps of 1/4 overshoot on metrics without masking.
    - score changes with the key: standard deviation of the score over 8 keys, divided by that of the scores of the
      images (by the score's size, for a single image); only with ``keyed_score``.
    - more steps do not help: mean gain of PGD-5, divided by that of 20 steps, both from the clean image.

    Args:
        score_fn: the metric; if it is randomised, with a fixed key.
        images: ``b h w c`` in [0, 1]; a dozen typical images are enough.
        key: random key.
        epsilon: Linf radius, in [0, 1] pixel units.
        queries: budget of the Square attack.
        keyed_score: ``(images, key) -> scores``, if the metric or its defense is randomised.
        objective: as in the attacks.

    Returns:
        Every check that was run, including those that passed (``flagged`` is False).

    Raises:
        ValueError: bad images, or an objective for another number of images.

    >>> flat = lambda x: jnp.round(x * 4).mean((1, 2, 3))
    >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    >>> print(check_masking(flat, images, jax.random.key(0), queries=20)[0].flagged)
    True
    """
    check_unit_images(images)
    score_fn, goal, key = beside(images, (as_pytree(score_fn), as_objective(objective), key))
    check_objective(goal, len(images))
    value = lambda x: np.asarray(goal.value(compiled_scores(score_fn, x)))  # noqa: E731
    clean = value(images)
    gradient = np.asarray(_raw_gradient(score_fn, images, goal)).reshape(len(images), -1)
    finite = np.isfinite(gradient).all(1)
    checks = [
        _check("gradient is zero", (np.abs(gradient).max(1) == 0).mean(), 0.0),
        _check("gradient is not finite", (~finite).mean(), 0.0),
    ]
    if not finite.all():
        return tuple(checks)  # the rest would stop at the first NaN

    def gain(attack: Any) -> np.ndarray:
        return value(attack(score_fn, images, key)) - clean

    def pgd(epsilon: float, steps: int, step_size: float | None = None) -> PGD:
        return PGD(epsilon, steps=steps, step_size=step_size, random_start=False, objective=goal)

    def until(measure: Any, limit: float, found: np.ndarray, others: Iterable[Any]) -> float:
        """Measure the largest gains; add attacks one by one until the measure is within the limit."""
        for attack in others:
            if measure(found) <= limit:
                break
            found = np.maximum(found, gain(attack))
        return measure(found)

    ten, twenty = gain(pgd(epsilon, 10)), gain(pgd(epsilon, 20))
    bounded = np.maximum(ten, twenty)
    apgd = APGD(epsilon, steps=40, random_start=False, objective=goal)
    noise_key, square_key, score_key = jax.random.split(key, 3)
    noise = np.max(
        [value(_corner(images, image_keys(k, len(images)), epsilon)) for k in jax.random.split(noise_key, 8)], 0
    )
    square = Square(epsilon, queries=queries, objective=goal).run(score_fn, images, square_key)
    found = np.asarray(goal.value(square.scores)) - clean
    five = gain(pgd(epsilon, 5)).mean()
    free = [pgd(1.0, 40, epsilon / 2), APGD(1.0, steps=40, random_start=False, objective=goal)]
    experiments: dict[str, tuple[Any, float, np.ndarray, list[Any]]] = {
        "noise beats pgd": (lambda x: (noise - clean > x).mean(), 0.05, bounded, [pgd(epsilon, 40)]),
        "square beats pgd": (lambda x: (found > x).mean(), 0.05, bounded, [pgd(epsilon, 40), apgd]),
        "unbounded attack does not saturate": (lambda x: _ratio(ten.mean(), x.mean()), 0.9, gain(pgd(1.0, 10)), free),
        "more steps do not help": (
            lambda x: _ratio(five, x.mean()),
            1.0,
            twenty,
            [pgd(epsilon, 20, epsilon / 8), apgd],
        ),
    }
    checks += [
        _check(name, until(measure, limit, start, others), limit)
        for name, (measure, limit, start, others) in experiments.items()
    ]
    if keyed_score is not None:
        scores = np.stack([np.asarray(keyed_score(images, k)) for k in jax.random.split(score_key, 8)])
        spread = scores.mean(0).std() if len(images) > 1 else np.abs(scores.mean())
        checks.append(_check("score changes with the key", _ratio(scores.std(0).mean(), spread), 0.01))
    return tuple(checks)


def _check(name: str, value: Any, limit: float) -> Check:
    return Check(name, float(value), limit, bool(value > limit))


def _ratio(part: Any, whole: Any) -> float:
    # No gain where the gain should be largest is the clearest sign of masking.
    return min(float(part / whole), LARGEST) if whole > 0 else LARGEST


@jax.jit
def _raw_gradient(score_fn, images, goal):
    return jax.grad(lambda x: goal.value(checked_scores(score_fn, x)).sum())(images)


@jax.jit
def _corner(images, keys, epsilon):
    signs = jax.vmap(lambda key, image: jax.random.rademacher(key, image.shape, image.dtype))(keys, images)
    return jnp.clip(images + epsilon * signs, 0, 1)
