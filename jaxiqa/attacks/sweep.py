"""One attack at many strengths."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.attacks.batch import Keys, as_pytree, check_attacked, check_clean
from jaxiqa.types import Images, ScoreFn


def sweep(
    attack: Any,
    score_fn: ScoreFn,
    images: Images,
    key: Keys,
    epsilons: Float[Array, " e"],
    *,
    chunk: int | None = None,
) -> Float[Array, "e b h w c"]:
    """Run ``attack`` at every ε, from the same clean images and keys; it is compiled once for all of them.

    On accelerators the strengths are one more vmapped axis, ``chunk`` of them at a time; memory grows with it. On a
    CPU they run one after another through the one compiled step, which is as fast there and needs no more memory.

    Args:
        attack: a dataclass with a field ``epsilon`` that is a pytree leaf; its other fields are kept.
        score_fn, images, key: see `jaxiqa.attacks.pgd.PGD`.
        epsilons: strengths in the attack's own unit.
        chunk: strengths at a time on accelerators; all of them by default.

    Returns:
        The attacked images, one batch per strength.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> images = jnp.full((1, 2, 3, 3), 0.5)
    >>> epsilons = jnp.array([0.125, 0.25])
    >>> attacked = sweep(FGSM(0.0), lambda x: x.mean((1, 2, 3)), images, jax.random.key(0), epsilons)
    >>> attacked[:, 0, 0, 0, 0].tolist()
    [0.625, 0.75]
    """
    check_clean(images)
    if not hasattr(attack, "epsilon"):
        raise ValueError(f"attack={type(attack).__name__} has no epsilon to sweep over")
    if not len(epsilons):
        raise ValueError("epsilons is empty; expected at least one")
    if jax.default_backend() == "cpu":
        attacked = jnp.stack([replace(attack, epsilon=epsilon)(score_fn, images, key) for epsilon in epsilons])
    else:
        chunk = chunk or len(epsilons)
        parts = [epsilons[first : first + chunk] for first in range(0, len(epsilons), chunk)]
        attacked = jnp.concatenate([_vmapped(attack, as_pytree(score_fn), images, key, part) for part in parts])
    check_attacked(attacked)
    return attacked


@jax.jit
def _vmapped(attack, score_fn, images, key, epsilons):
    return jax.vmap(lambda epsilon: replace(attack, epsilon=epsilon)(score_fn, images, key))(epsilons)
