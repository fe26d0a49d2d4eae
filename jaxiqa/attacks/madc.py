"""MADC: raise the score orthogonally to the distortion, as in the maximum differentiation competition."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, per_image_gradient, towards
from jaxiqa.attacks.engine.loop import iterate
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.threat_model import Number, project_l2, steepest_step
from jaxiqa.attacks.engine.variants import complete
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn

PULL = 5e-4  # the benchmark's step back towards the clean image


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MADC(Attack):
    """MADC: steps along the part of the score's gradient that keeps the distortion constant,

        p = g − (⟨d, g⟩ / ⟨d, d⟩) d,    g = ∇f(x),  d = x − clean  (parallel to ∇RMSE)
        x ← Π(x + step_size · √n · p / ‖g‖₂)

    The first step (d = 0, so p = g) has RMSE ``step_size``; the others replace that distortion by one with a better
    score. ``Π`` projects onto the nearest image with ``RMSE(x, clean) <= max_rmse`` and values in [0, 1].

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541: ``x ← x + step_size · sign(p)``;
    then, while the RMSE is above ``max_rmse``, ``x ← clip(x − 0.0005 · sign(d), 0, 1)``, at most 2,000 times (the whole
    range of values; the benchmark's loop has no limit); 8 steps. The presets, weak to strong, are step sizes of
    0.00098, 0.00196 and 0.00392.

    Args:
        step_size: length of a step: its RMSE, or under ``"benchmark"`` its Linf norm, in [0, 1] pixel units; a pytree
            leaf; None is ``4 / 255``, or 0.001.
        max_rmse: largest root mean square error of the result, in the same units; a pytree leaf.
        steps: number of steps, >= 1; None is 10, or 8.
        variant: ``"paper"`` or ``"benchmark"``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; the key is not used.

    >>> images = jnp.full((1, 4, 6, 3), 0.5)
    >>> attacked = MADC(step_size=2 / 255, steps=3)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print((255 * (attacked - images)).min().round(3))  # one step is enough for a linear score
    2.0

    Reference: Wang and Simoncelli, "Maximum differentiation (MAD) competition", Journal of Vision, 2008; as an attack,
    Antsiferova et al., "Comparing the robustness of modern no-reference image- and video-quality metrics to adversarial
    attacks", arXiv:2310.06958.

    **Differs from the paper**: it starts from the clean image instead of a distorted one; it bounds the RMSE instead of
    holding it constant; it raises one metric instead of comparing two.
    """

    strength: ClassVar[str] = "step_size"

    _: KW_ONLY
    step_size: Number | None = None
    max_rmse: Number = 10 / 255
    steps: int | None = static(None)
    variant: str = static("paper")
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        complete(self, {"paper": {"step_size": 4 / 255, "steps": 10}, "benchmark": {"step_size": 1e-3, "steps": 8}})

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, _ = begin(towards(self, score_fn, images), score_fn, images, key)
        step = {"paper": _step, "benchmark": _benchmark_step}[self.variant]
        assert self.steps is not None  # since __post_init__
        constants = (images, score_fn, self.step_size, self.max_rmse, self.objective)
        attacked = iterate(step, images, self.steps, *constants)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


def project_out(vector: Float[Array, "*shape"], direction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the part of ``vector`` orthogonal to ``direction``; all of it if ``direction`` is zero.

    >>> project_out(jnp.array([3.0, 4.0]), jnp.array([2.0, 0.0])).tolist()
    [0.0, 4.0]
    """
    squared = jnp.sum(direction * direction)
    return vector - jnp.sum(direction * vector) / jnp.where(squared == 0, 1.0, squared) * direction


@jax.jit
def _step(images, clean, score_fn, step_size, max_rmse, objective):
    gradients = per_image_gradient(lambda x: objective.value(checked_scores(score_fn, x)), images)

    def one(image, clean, gradient):
        root = image.size**0.5
        # Divide by the norm of the whole gradient: if the orthogonal part is zero, rounding errors are not amplified.
        direction = project_out(steepest_step(gradient, "l2"), image - clean)
        return project_l2(image + step_size * root * direction, clean, max_rmse * root)

    return jax.vmap(one)(images, clean, gradients)


@jax.jit
def _benchmark_step(images, clean, score_fn, step_size, max_rmse, objective):
    gradients = per_image_gradient(lambda x: objective.value(checked_scores(score_fn, x)), images)

    def one(image, clean, gradient):
        direction = project_out(steepest_step(gradient, "l2"), image - clean)
        return _pull_back(image + step_size * jnp.sign(direction), clean, max_rmse)

    return jax.vmap(one)(images, clean, gradients)


def _pull_back(image, clean, max_rmse):
    def outside(state):
        pulls, image = state
        return (pulls < round(1 / PULL)) & (jnp.sqrt(jnp.mean((image - clean) ** 2)) > max_rmse)

    def pull(state):
        pulls, image = state
        return pulls + 1, jnp.clip(image - PULL * jnp.sign(image - clean), 0, 1)

    return jnp.clip(jax.lax.while_loop(outside, pull, (0, image))[1], 0, 1)
