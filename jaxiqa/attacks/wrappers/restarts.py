"""The best of several runs of one attack."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxiqa.attacks.engine.loop import check_steps
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import as_pytree, beside, static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Restarts:
    """Run a randomised attack ``count`` times; keep, for each image, the run with the best objective value.

    Args:
        attack: an attack with a random start, such as `jaxiqa.attacks.pgd.PGD`.
        count: number of runs, ≥ 1; run i uses the image's key folded with i, so more runs are never worse.

    Call, result and errors are those of the attack.

    >>> from jaxiqa.attacks.pgd import PGD
    >>> images, score, key = jnp.full((1, 4, 6, 3), 0.5), lambda x: x.mean((1, 2, 3)), jax.random.key(0)
    >>> one, three = (Restarts(PGD(0.1, steps=1), n)(score, images, key) for n in (1, 3))
    >>> bool(score(three)[0] >= score(one)[0])
    True
    """

    attack: Any
    count: int = static(5)

    def __post_init__(self) -> None:
        check_steps(self.count)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        check_unit_images(images)
        keys, score_fn = image_keys(key, len(images)), beside(images, as_pytree(score_fn))
        best: Any = None
        best_value: Any = None
        for run in range(self.count):
            attacked = self.attack(score_fn, images, jax.vmap(jax.random.fold_in, (0, None))(keys, run))
            value = _value(score_fn, attacked, self.attack.objective)
            if best is None:
                best, best_value = attacked, value
            else:
                best, best_value = _better(best, best_value, attacked, value)
        return best


@jax.jit
def _value(score_fn, images, objective):
    return objective.value(checked_scores(score_fn, images))


@jax.jit
def _better(best, best_value, attacked, value):
    better = value > best_value
    return jnp.where(better[:, None, None, None], attacked, best), jnp.maximum(value, best_value)
