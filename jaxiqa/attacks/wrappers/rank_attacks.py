"""An adaptive ensemble of attacks on the order of a set of images."""

from collections.abc import Sequence
from typing import Any

from jaxiqa.attacks.apgd import APGD
from jaxiqa.attacks.engine.objective import Maximize
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.attacks.pgd import PGD
from jaxiqa.attacks.square import Square
from jaxiqa.attacks.wrappers.ensemble import ensemble
from jaxiqa.core.checks import check_count, check_number
from jaxiqa.core.types import ScoreFn

STEP_SIZES = {"PGD-10, steps of ε/5": 0.2, "PGD-10, steps of ε/2": 0.5, "PGD-10, steps of ε": 1.0}
"""Label -> length of a step, as a share of ε: one size may cross a narrow slope, another never reach the border."""


def rank_attacks(
    epsilon: Number, objective: Maximize, *, sources: Sequence[ScoreFn] = (), queries: int = 1000
) -> dict[str, Any]:
    """Return attacks that differ in what could make one of them fail; the worst of them is an honest bound.

    PGD with ten steps of three lengths, APGD with twenty steps, Square, which needs no gradient, and PGD on other
    metrics (`jaxiqa.attacks.ensemble`), which finds changes that a masked gradient hides. Attack a metric that is
    random, or has no gradient, through `jaxiqa.defenses.eot` and `jaxiqa.defenses.bpda`.

    Args:
        epsilon: radius of the Linf ball, in [0, 1] pixel units.
        objective: the direction of each image, from `jaxiqa.attacks.engine.objective.invert_ranks`.
        sources: score functions of other metrics; without any, nothing is transferred.
        queries: number of scores per image for Square, at least 2; 0: no Square.

    Returns:
        Label -> ``attack(score_fn, images, key) -> images``.

    Raises:
        ValueError: an option is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from jaxiqa.attacks.engine.objective import invert_ranks
    >>> images = jnp.linspace(0.2, 0.8, 4)[:, None, None, None] * jnp.ones((1, 6, 8, 3))
    >>> score = lambda x: x.mean((1, 2, 3))
    >>> several = rank_attacks(0.1, invert_ranks(score(images)), queries=20)
    >>> list(several)
    ['PGD-10, steps of ε/5', 'PGD-10, steps of ε/2', 'PGD-10, steps of ε', 'APGD-20', 'Square-20']
    >>> [round(value, 2) for value in score(several["APGD-20"](score, images, jax.random.key(0))).tolist()]
    [0.3, 0.5, 0.5, 0.7]
    """
    check_number("epsilon", epsilon, 0.0)
    check_count("queries", queries, 0)
    found: dict[str, Any] = {
        label: PGD(epsilon, steps=10, step_size=share * epsilon, objective=objective)
        for label, share in STEP_SIZES.items()
    }
    found["APGD-20"] = APGD(epsilon, steps=20, objective=objective)
    if queries:
        found[f"Square-{queries}"] = Square(epsilon, queries=queries, objective=objective)
    if sources:
        attack, source = PGD(epsilon, steps=10, objective=objective), ensemble(sources)
        found["transfer"] = lambda score_fn, images, key: attack(source, images, key)
    return found
