"""stAdv: move pixels instead of changing their values."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, per_image_gradient, towards
from jaxiqa.attacks.engine.loop import iterate
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.attacks.engine.variants import complete
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn
from jaxiqa.ops.flow import Flow, flow_loss, warp

_adam = optax.scale_by_adam()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StAdv(Attack):
    """stAdv: optimise a flow field per image, from zero, by Adam on

        −(f(warp(x, flow)) − f(x)) / score_scale  +  flow_weight · flow_loss(flow) / (h·w)

    There is no ε: the smoothness of the field limits the change. Pixel values are interpolated between neighbours, so
    the result stays in [0, 1].

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541: with R = ``score_scale``, L-BFGS
    without line search on

        50 · 1.5 R / (f(warp(x, flow)) + 1.5 R)  +  flow_weight · flow_loss(flow)

    for 3 iterations. There the smoothness term has no root, is zero-padded at the border, and is a sum. The step is
    ``step_size`` times the quasi-Newton direction, in the first iteration divided by ``max(1, ‖g‖₁)``. The presets,
    weak to strong, are step sizes of about 0.38 to 0.71, 0.55 to 0.90 and 0.83 to 1.19, depending on the metric.

    Args:
        flow_weight: weight of the smoothness term, per pixel; a pytree leaf; None is 0.02, or 1e-5.
        score_scale: width of the metric's scale (100 for scores from 0 to 100); a pytree leaf.
        step_size: Adam's learning rate in pixels, or the factor of L-BFGS; a pytree leaf; None is 0.1, or 2.5.
        steps: number of steps, ≥ 1; None is 20, or 3.
        variant: ``"paper"`` or ``"benchmark"``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; images are at least 2×2, and the key is not used.

    >>> images = jax.random.uniform(jax.random.key(0), (1, 8, 10, 3))
    >>> score = lambda x: x[:, 2:6, 2:6].mean((1, 2, 3))
    >>> attacked = StAdv(score_scale=1.0, steps=5)(score, images, jax.random.key(0))
    >>> bool(score(attacked)[0] > score(images)[0])
    True

    Reference: Xiao et al., "Spatially Transformed Adversarial Examples", arXiv:1801.02612.

    **Differs from the paper**: the score replaces the classification margin; Adam, which steps all images of a
    batch together, replaces L-BFGS-B; the smoothness term is a mean over pixels, so its weight does not depend on the
    size of the image.
    """

    strength: ClassVar[str] = "step_size"

    _: KW_ONLY
    flow_weight: Number | None = None
    score_scale: Number = 100.0
    step_size: Number | None = None
    steps: int | None = static(None)
    variant: str = static("paper")
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        paper = {"flow_weight": 0.02, "step_size": 0.1, "steps": 20}
        complete(self, {"paper": paper, "benchmark": {"flow_weight": 1e-5, "step_size": 2.5, "steps": 3}})

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, _ = begin(towards(self, score_fn, images), score_fn, images, key, minimum=2)
        flows = jnp.zeros((*images.shape[:3], 2), images.dtype)
        constants = (images, score_fn)
        if self.variant == "paper":
            weights = (1 / self.score_scale, self.flow_weight, self.step_size)
            step, state = _step, (flows, _adam.init(flows))
        else:
            weights = (1.5 * self.score_scale, self.flow_weight, self.step_size)
            step, state = _benchmark_step, (flows, _no_past(flows, self.steps))
        assert self.steps is not None  # since __post_init__
        flows, _ = iterate(step, state, self.steps, *constants, weights, self.objective)
        attacked = _warp_all(images, flows)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


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


@jax.jit
def _benchmark_step(state, images, score_fn, weights, goal):
    flows, past = state
    middle, flow_weight, step_size = weights

    def objective(flows):
        scores = goal.value(checked_scores(score_fn, _warp_all(images, flows)))
        uneven = jax.vmap(lambda flow: flow_loss(flow, root=False, padding="zero"))(flows)
        return 50 * middle / (scores + middle) + flow_weight * uneven

    gradients = per_image_gradient(objective, flows)
    moves, past = jax.vmap(lambda gradient, past: _lbfgs(gradient, past, step_size))(gradients, past)
    return flows + moves, past


class _Past(NamedTuple):
    """The memory of L-BFGS for one image: a pair for each step except the last; weight 0: empty pair."""

    taken: Int[Array, ""]
    gradient: Flow  # of the last step
    move: Flow
    moves: Float[Array, "m h w 2"]
    turns: Float[Array, "m h w 2"]  # change of the gradient by each move
    weights: Float[Array, " m"]  # 1 / ⟨move, turn⟩
    scale: Float[Array, ""]  # of the initial inverse Hessian


def _no_past(flows, steps):
    pairs = max(steps - 1, 1)

    def one(flow):
        many = jnp.zeros((pairs, *flow.shape), flow.dtype)
        nothing, weights = jnp.zeros_like(flow), jnp.zeros(pairs, flow.dtype)
        return _Past(jnp.int32(0), nothing, nothing, many, many, weights, jnp.ones((), flow.dtype))

    return jax.vmap(one)(flows)


def _lbfgs(gradient, past, step_size):
    """Return the next move of one image and its new memory: PyTorch's L-BFGS, one iteration per call, no line search.

    L-BFGS in optax has another first step and keeps pairs of negative curvature; this one skips them.
    """
    turn = gradient - past.gradient
    curvature = jnp.sum(turn * past.move)
    curved = (past.taken > 0) & (curvature > 1e-10)
    slot = jnp.maximum(past.taken - 1, 0)
    moves = past.moves.at[slot].set(past.move)
    turns = past.turns.at[slot].set(turn)
    weights = past.weights.at[slot].set(jnp.where(curved, 1 / jnp.where(curved, curvature, 1.0), 0.0))
    scale = jnp.where(curved, curvature / jnp.where(curved, jnp.sum(turn * turn), 1.0), past.scale)

    direction, shares = -gradient, []
    for i in reversed(range(len(weights))):
        shares.append(weights[i] * jnp.sum(moves[i] * direction))
        direction -= shares[-1] * turns[i]
    direction *= scale
    for i, share in enumerate(reversed(shares)):
        direction += (share - weights[i] * jnp.sum(turns[i] * direction)) * moves[i]

    first = 1 / jnp.maximum(1.0, jnp.sum(jnp.abs(gradient)))
    move = step_size * jnp.where(past.taken == 0, first, 1.0) * direction
    done = (jnp.max(jnp.abs(gradient)) <= 1e-7) | (jnp.sum(gradient * direction) > -1e-9)
    past = _Past(past.taken + 1, gradient, move, moves, turns, weights, scale)
    return jnp.where(done, 0.0, move), past
