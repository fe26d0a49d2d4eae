"""The fast gradient sign method and its iterated form: Linf PGD from the clean image."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import jax

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import check_complete
from jaxiqa.attacks.engine.objective import Objective, as_objective
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.attacks.pgd import PGD, SharedPrefix
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import static
from jaxiqa.core.types import Images, ScoreFn


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FGSM(Attack):
    """FGSM: ``clip(x + epsilon · sign(∇f(x)), 0, 1)``.

    Args:
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``; a pytree leaf.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; the key is not used.

    >>> images = jax.numpy.full((1, 4, 6, 3), 0.5)
    >>> attacked = FGSM(8 / 255)(lambda x: -x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print((255 * (attacked - images)).min().round(3))
    -8.0

    Reference: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", arXiv:1412.6572.

    Differs from the paper: the score replaces the classification loss.
    """

    epsilon: Number
    _: KW_ONLY
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", as_objective(self.objective))
        self._pgd()

    def shared_prefixes(
        self, score_fn: ScoreFn, images: Images, epsilons: Sequence[float]
    ) -> list[SharedPrefix] | None:
        """See `jaxiqa.attacks.pgd.PGD.shared_prefixes`: here it is the whole attack except its step."""
        return self._pgd().shared_prefixes(score_fn, images, epsilons)

    def _pgd(self):
        return PGD(self.epsilon, steps=1, step_size=None, random_start=False, objective=self.objective)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys, *, prefix: SharedPrefix | None = None) -> Images:
        return self._pgd()(score_fn, images, key, prefix=prefix)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IFGSM(Attack):
    """I-FGSM (basic iterative method): ``x ← Π(x + step_size · sign(∇f(x)))`` from the clean image.

    Args:
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``; a pytree leaf.
        step_size: length of a step in the same units; a pytree leaf; None is ``epsilon / steps``, which just reaches
            the ball's surface. The benchmark "Guardians of Image Quality", arXiv:2408.01541, fixes ``epsilon`` at
            ``10 / 255`` and sets the strength by the step.
        steps: number of steps, >= 1.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; the key is not used.

    >>> images = jax.numpy.full((1, 4, 6, 3), 0.5)
    >>> attacked = IFGSM(8 / 255, steps=4, step_size=1 / 255)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> print((255 * (attacked - images)).max().round(3))
    4.0

    Reference: Kurakin et al., "Adversarial examples in the physical world", arXiv:1607.02533.

    Differs from the paper: the score replaces the classification loss.
    """

    epsilon: Number
    _: KW_ONLY
    step_size: Number | None = None
    steps: int = static(10)
    objective: Objective | str = "raise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "objective", as_objective(self.objective))
        self._pgd(self.step_size)

    def shared_prefixes(
        self, score_fn: ScoreFn, images: Images, epsilons: Sequence[float]
    ) -> list[SharedPrefix] | None:
        """See `jaxiqa.attacks.pgd.PGD.shared_prefixes`."""
        return self._pgd(self.step_size).shared_prefixes(score_fn, images, epsilons)

    def _pgd(self, step_size):
        return PGD(self.epsilon, steps=self.steps, step_size=step_size, random_start=False, objective=self.objective)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys, *, prefix: SharedPrefix | None = None) -> Images:
        check_complete(self)
        step_size = self.epsilon / self.steps if self.step_size is None else self.step_size
        return self._pgd(step_size)(score_fn, images, key, prefix=prefix)
