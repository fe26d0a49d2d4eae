"""SSAH: raise the score and keep the low frequencies, so that fine detail hides the change."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

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
from jaxiqa.ops.wavelet import haar_low_pass

_adam = optax.scale_by_adam()

# tanh reaches ±1 only at infinity, so black and white pixels start at this share of ±1.
_INSIDE = 1 - 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SSAH(Attack):
    """SSAH: Adam on

        −f(x) / score_scale + low_weight · Σ smooth_l1(L(x) − L(clean)),    smooth_l1(d) = d²/2, |d| − 1/2 beyond 1

    with L the image rebuilt from the low band of its Haar wavelet transform (`jaxiqa.ops.wavelet.haar_low_pass`). The
    variables are w, with x = (1 + tanh w) / 2, which keeps x in [0, 1] and leaves black and white pixels almost
    unchanged. There is no ε: the number of steps, their size and the penalty on the low band limit the change.

    ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541: the same loss on the pixels
    themselves, 10 steps, each clipped to [0, 1]. The presets, weak to strong, are step sizes of about 0.0008, 0.0016
    and 0.0031.

    Args:
        step_size: Adam's learning rate, in units of w (a mid-grey pixel changes by half of it), or under
            ``"benchmark"`` of pixel values in [0, 1]; a pytree leaf.
        low_weight: weight of the penalty on a change of the low band, summed over the image; a pytree leaf.
        score_scale: width of the metric's scale (100 for scores from 0 to 100); a pytree leaf.
        steps: number of Adam steps, >= 1; None is 150, or 10.
        variant: ``"paper"`` or ``"benchmark"``.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; the key is not used.

    >>> images = jax.random.uniform(jax.random.key(0), (1, 5, 8, 3))
    >>> score = lambda x: (jnp.diff(x, axis=2) ** 2).mean((1, 2, 3))
    >>> attacked = SSAH(steps=5, score_scale=1.0)(score, images, jax.random.key(0))
    >>> bool(score(attacked)[0] > score(images)[0])
    True

    Reference: Luo et al., "Frequency-driven imperceptible adversarial attack on semantic similarity",
    arXiv:2203.05151.

    **Differs from the paper**: the score replaces the contrast of features with other images of the batch, since that
    makes the result of an image depend on the other images.
    """

    strength: ClassVar[str] = "step_size"

    _: KW_ONLY
    step_size: Number = 1e-3
    low_weight: Number = 0.1
    score_scale: Number = 100.0
    steps: int | None = static(None)
    variant: str = static("paper")
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        complete(self, {"paper": {"steps": 150}, "benchmark": {"steps": 10}})

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, _ = begin(towards(self, score_fn, images), score_fn, images, key)
        step = {"paper": _step, "benchmark": _benchmark_step}[self.variant]
        variables = _as_tanh(images) if self.variant == "paper" else images
        weights = (1 / self.score_scale, self.low_weight)
        assert self.steps is not None  # since __post_init__
        constants = (images, score_fn, weights, self.step_size, self.objective)
        variables, _ = iterate(step, (variables, _adam.init(variables)), self.steps, *constants)
        attacked = _from_tanh(variables) if self.variant == "paper" else variables
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


@jax.jit
def _as_tanh(images):
    return jnp.arctanh(_INSIDE * (2 * images - 1))


@jax.jit
def _from_tanh(variables):
    return (1 + jnp.tanh(variables)) / 2


def _loss(images, clean, score_fn, weights, objective):
    score_weight, low_weight = weights
    change = haar_low_pass(images) - haar_low_pass(clean)
    price = optax.losses.huber_loss(change).sum((1, 2, 3))
    return low_weight * price - score_weight * objective.value(checked_scores(score_fn, images))


@jax.jit
def _step(state, clean, score_fn, weights, step_size, objective):
    variables, adam = state
    gradients = per_image_gradient(lambda w: _loss(_from_tanh(w), clean, score_fn, weights, objective), variables)
    direction, adam = _adam.update(gradients, adam)
    return variables - step_size * direction, adam


@jax.jit
def _benchmark_step(state, clean, score_fn, weights, step_size, objective):
    images, adam = state
    gradients = per_image_gradient(lambda x: _loss(x, clean, score_fn, weights, objective), images)
    direction, adam = _adam.update(gradients, adam)
    return jnp.clip(images - step_size * direction, 0, 1), adam
