"""Projected gradient descent: steepest steps on the score, each projected back into the threat model."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import jax

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, per_image_gradient, towards
from jaxiqa.attacks.engine.loop import check_steps, iterate
from jaxiqa.attacks.engine.objective import Objective, as_objective
from jaxiqa.attacks.engine.threat_model import Ball, Number
from jaxiqa.core.checks import check_number
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import is_traced, static
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, ScoreFn


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharedPrefix:
    """The prefix that runs at several ε share: the images after some steps, and their gradient."""

    images: Images
    gradient: Images
    steps: int = static()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PGD(Attack):
    """PGD: ``x ← Π(x + step_size · u(∇f(x)))``, ``u``: steepest unit step, ``Π``: projection on ball and box.

    Returns the last iterate, as other PGD implementations. ``epsilon`` and ``step_size`` are pytree leaves: they may be
    traced, and a change needs no new compilation. On the CPU, a change of ``steps`` needs none either.

    Args:
        epsilon: radius of the ball around the clean image. Linf: in [0, 1] pixel units, written ``8 / 255``;
            L2: Euclidean norm of the whole perturbation, in the same units.
        steps: number of gradient steps, >= 1.
        step_size: length of a step, in units of ``epsilon``'s norm; None is ``2.5 * epsilon / steps``.
        norm: ``"linf"`` or ``"l2"``.
        random_start: start at a random point of the ball (a key per image) instead of at the clean image.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Calling it takes ``score_fn`` (``b h w c -> b``), images ``b h w c`` in [0, 1] and a key, or one key per image
    (see `jaxiqa.core.keys.image_keys`), and returns images ``b h w c`` in the ball and in [0, 1].

    Raises:
        ValueError: an option or the images are out of range, or ``score_fn`` gave a score or gradient that is not
            finite (under an outer trace the image is NaN instead).

    >>> images = jax.numpy.full((1, 4, 6, 3), 0.5)
    >>> attacked = PGD(8 / 255, steps=8)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print((255 * (attacked - images)).max().round(3))
    8.0

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv:1706.06083.

    Differs from the paper: the score replaces the classification loss; L2 steps are projected onto ball and
    box jointly.
    """

    epsilon: Number
    _: KW_ONLY
    steps: int = static(10)
    step_size: Number | None = None
    norm: str = static("linf")
    random_start: bool = static(True)
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        Ball(self.epsilon, norm=self.norm)  # checks both
        check_steps(self.steps)
        object.__setattr__(self, "objective", as_objective(self.objective))
        check_number("step_size", self.step_size, 0.0, or_none=True)

    def shared_prefixes(
        self, score_fn: ScoreFn, images: Images, epsilons: Sequence[float]
    ) -> list[SharedPrefix] | None:
        """Compute, for each ε, the steps shared with larger ε; None after a random start.

        All runs start with the gradient at the clean images. While ``steps * step_size <= epsilon``, no step is
        projected. So with a fixed ``step_size`` all runs also take the same first steps.
        """
        if self.random_start:
            return None
        self, score_fn, images, _ = begin(towards(self, score_fn, images), score_fn, images, None)
        ball = Ball(max(epsilons), norm=self.norm)
        ends = [self._free_steps(epsilon) for epsilon in epsilons]
        prefixes: dict[int, SharedPrefix] = {}
        walked = images
        for steps in range(max(ends) + 1):
            gradient = _gradient(walked, score_fn, self.objective)
            prefixes[steps] = SharedPrefix(walked, gradient, steps)
            if steps < max(ends):
                walked = _move(walked, images, gradient, ball, self.step_size)
        return [prefixes[end] for end in ends]

    def _free_steps(self, epsilon: float) -> int:
        """Return the number of steps, without the last, that cannot leave the ball."""
        if self.step_size is None or is_traced(self.step_size):
            return 0
        if self.step_size == 0:
            return self.steps - 1
        # Rounding must not drop a step that ends on the ball's surface; the next step projects it.
        return min(self.steps - 1, int(epsilon / self.step_size * (1 + 1e-6)))

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys, *, prefix: SharedPrefix | None = None) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, key = begin(towards(self, score_fn, images), score_fn, images, key)
        ball = Ball(self.epsilon, norm=self.norm)
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        attacked, steps = images, self.steps
        if prefix is not None:
            attacked, steps = _move(prefix.images, images, prefix.gradient, ball, step_size), steps - prefix.steps - 1
        elif self.random_start:
            attacked = _start(images, image_keys(key, len(images)), ball)
        attacked = iterate(_step, attacked, steps, images, score_fn, ball, step_size, self.objective)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


@jax.jit
def _start(clean, keys, ball):
    return jax.vmap(ball.start)(keys, clean)


@jax.jit
def _gradient(images, score_fn, objective):
    return per_image_gradient(lambda x: objective.value(checked_scores(score_fn, x)), images)


@jax.jit
def _move(images, clean, gradients, ball, step_size):
    def one(image, clean, gradient):
        return ball.project(image + step_size * ball.steepest(gradient), clean)

    return jax.vmap(one)(images, clean, gradients)


@jax.jit
def _step(images, clean, score_fn, ball, step_size, objective):
    return _move(images, clean, _gradient(images, score_fn, objective), ball, step_size)
