"""NES: gradient ascent on a gradient estimated from the scores of pairs with opposite noise."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxiqa.attacks.engine.loop import check_steps
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.engine.threat_model import Ball, Number
from jaxiqa.core.checks import check_count, check_number
from jaxiqa.core.pytrees import static
from jaxiqa.ops.geometry import tile

_PLATEAU = 5  # steps without a gain after which the step size is halved
_TILE = 32


class State(NamedTuple):
    image: Any
    momentum: Any
    rate: Any
    recent: Any  # mean objective values of the last steps, the newest last


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NES(QueryAttack):
    """Natural evolution strategies: ``2·pairs`` images around the iterate give an estimate of the gradient,

        g = Σ_i (v(x + σ u_i) − v(x − σ u_i)) u_i / (2 σ · pairs),    u_i normal noise,

    and ``m ← momentum · m + (1 − momentum) · g``, ``x ← Π(x + rate · sign(m))``. The rate starts at ``step_size``. It
    is halved when the last of 5 steps is worse than the first, down to ``step_size / 200``. Returns the last iterate.

    Args:
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``.
        steps: gradient steps, >= 1. An image costs at most ``2·pairs·steps + 2`` queries: those around the iterates,
            the clean image and the result.
        pairs: pairs of noise per step, >= 1.
        sigma: standard deviation of the noise in pixel units, > 0.
        step_size: the first rate. None is ``epsilon / 5``, or 0.1 in the benchmark's variant, where it is the Euclidean
            length of a step.
        momentum: share of the old direction that is kept, in [0, 1].
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`. Work on an image
            stops when the mean score around its iterate reaches the objective.
        batch_size: most images that the metric scores at once.
        variant: ``"paper"``, or ``"benchmark"``: noise of 32×32 pixels is tiled over the image, and a step is
            ``x ← Π(x + step_size · g / ‖g‖₂)``, without momentum and halving. The benchmark ran it with ``pairs=20,
            steps=250``.

    Call it as `jaxiqa.attacks.pgd.PGD`; `run` also returns scores and query counts.

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` returned a score that is not finite.

    >>> images = jnp.full((1, 2, 3, 3), 0.5)
    >>> result = NES(8 / 255, steps=8, pairs=10).run(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> bool(result.scores[0] > 0.51), result.queries.tolist()
    (True, [162])

    Reference: Ilyas et al., "Black-box Adversarial Attacks with Limited Queries and Information", arXiv:1804.08598.

    **Differs from the paper**: the score replaces the classification loss; the rates are the paper's at its
    ε = 0.05 and grow with ε; images are clipped to [0, 1] before they are scored.
    """

    epsilon: Number
    _: KW_ONLY
    steps: int = static(200)
    pairs: int = static(25)
    sigma: Number = 1e-3
    step_size: Number | None = None
    momentum: Number = 0.9
    objective: Objective | str = "raise"
    batch_size: int = static(32)
    variant: str = static("paper")

    estimates_gradient: ClassVar[bool] = True

    def check(self):
        Ball(self.epsilon)  # checks it
        check_steps(self.steps)
        check_count("pairs", self.pairs, 1)
        check_number("sigma", self.sigma, 0.0, 1.0, open_low=True, or_none=True)
        check_number("momentum", self.momentum, 0.0, 1.0, or_none=True)
        check_number("step_size", self.step_size, 0.0, or_none=True)

    @property
    def candidates(self) -> int:
        return 2 * self.pairs

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, clean, value, key):
        step_size = self.epsilon / 5 if self.step_size is None else self.step_size
        rate = jnp.asarray(step_size, clean.dtype)
        return State(clean, jnp.zeros_like(clean), rate, jnp.full(_PLATEAU, -jnp.inf, jnp.float32))

    def propose(self, state, clean, key, iteration):
        h, w, c = clean.shape
        shape = (h, w, c) if self.variant == "paper" else (_TILE, _TILE, c)
        noise = jax.random.normal(key, (self.pairs, *shape), clean.dtype)
        return jnp.concatenate([noise, -noise])

    def render(self, state, clean, noise):
        return jnp.clip(state.image + self.sigma * tile(noise, *clean.shape[:2]), 0, 1)

    def accept(self, state, clean, noise, values, iteration):
        slopes = (values[: self.pairs] - values[self.pairs :]) / (2 * self.sigma * self.pairs)
        gradient = tile(jnp.tensordot(slopes, noise[: self.pairs], 1), *clean.shape[:2])
        ball = Ball(self.epsilon)
        if self.variant == "benchmark":
            length = jnp.linalg.norm(gradient)
            step_size = 0.1 if self.step_size is None else self.step_size
            step = step_size * gradient / jnp.where(length == 0, 1.0, length)
            return state._replace(image=ball.project(state.image + step, clean))
        momentum = self.momentum * state.momentum + (1 - self.momentum) * gradient
        recent = jnp.append(state.recent[1:], values.mean())
        stuck = (recent[-1] < recent[0]) & jnp.isfinite(recent[0])
        first = self.start(clean, None, None)
        rate = jnp.where(stuck, jnp.maximum(state.rate / 2, first.rate / 200), state.rate)
        image = ball.project(state.image + rate * ball.steepest(momentum), clean)
        return State(image, momentum, rate, jnp.where(stuck, first.recent, recent))
