"""stAdv: move pixels instead of changing their values."""

from dataclasses import KW_ONLY, dataclass, field

import jax
import jax.numpy as jnp
import optax

from jaxiqa.attacks.batch import (
    Keys,
    as_pytree,
    check_attacked,
    check_clean,
    checked_scores,
    per_image_gradient,
)
from jaxiqa.attacks.loop import check_steps, iterate
from jaxiqa.attacks.objective import Objective, as_objective
from jaxiqa.attacks.threat import Number
from jaxiqa.checks import check_number
from jaxiqa.ops.flow import flow_loss, warp
from jaxiqa.types import Images, ScoreFn

_adam = optax.scale_by_adam()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StAdv:
    """stAdv: a flow field per image, from zero, by Adam on

        −(f(warp(x, flow)) − f(x)) / score_scale  +  flow_weight · flow_loss(flow) / (h·w)

    There is no ε: the field's smoothness is what bounds the change. Pixel values only mix with their neighbours', so
    the result stays in [0, 1].

    Args:
        flow_weight: price of an uneven field, per pixel; a pytree leaf.
        score_scale: size of the metric's scale (100 for scores from 0 to 100); a pytree leaf.
        step_size: Adam's learning rate in pixels; a pytree leaf.
        steps: number of Adam steps, ≥ 1.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; images are at least 2×2, and the key is not used.

    >>> images = jax.random.uniform(jax.random.key(0), (1, 8, 10, 3))
    >>> score = lambda x: x[:, 2:6, 2:6].mean((1, 2, 3))
    >>> attacked = StAdv(score_scale=1.0, steps=5)(score, images, jax.random.key(0))
    >>> bool(score(attacked)[0] > score(images)[0])
    True

    Reference: Xiao et al., "Spatially Transformed Adversarial Examples", arXiv:1801.02612.

    **Differs from the paper**: the score takes the place of a classification margin; Adam, which steps all images of a
    batch together, takes that of L-BFGS-B; the smoothness term is a mean over pixels, so its weight does not depend
    on the picture's size.
    """

    _: KW_ONLY
    flow_weight: Number = 0.02
    score_scale: Number = 100.0
    step_size: Number = 0.1
    steps: int = field(default=20, metadata={"static": True})
    objective: Objective | str = "raise"

    def __post_init__(self):
        check_steps(self.steps)
        object.__setattr__(self, "objective", as_objective(self.objective))
        for name in ("flow_weight", "score_scale", "step_size"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                check_number(name, value, 0.0, open_low=name != "flow_weight")

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        check_clean(images, minimum=2)
        del key
        flows = jnp.zeros((*images.shape[:3], 2), images.dtype)
        weights = (1 / self.score_scale, self.flow_weight, self.step_size)
        state = (flows, _adam.init(flows))
        flows, _ = iterate(_step, state, self.steps, images, as_pytree(score_fn), weights, self.objective)
        attacked = _warp_all(images, flows)
        check_attacked(attacked)
        return attacked


@jax.jit
def _warp_all(images, flows):
    # Interpolation weights sum to one only up to rounding.
    return jnp.clip(jax.vmap(warp)(images, flows), 0, 1)


@jax.jit
def _step(state, images, score_fn, weights, goal):
    flows, adam = state
    score_weight, flow_weight, step_size = weights
    pixels = images.shape[1] * images.shape[2]

    def objective(flows):
        scores = goal.value(checked_scores(score_fn, _warp_all(images, flows)))
        return flow_weight * jax.vmap(flow_loss)(flows) / pixels - score_weight * scores

    direction, adam = _adam.update(per_image_gradient(objective, flows), adam)
    return flows - step_size * direction, adam
