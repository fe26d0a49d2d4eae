"""What the units of one model share: its score function, the config and the images, and the parts that stay warm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from jaxiqa.config import Defense, Evaluation
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import Runner
from jaxiqa.evaluation.attack_plan import AttackPlan
from jaxiqa.evaluation.build_defense import build
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import UNDEFENDED, Strength


def silent(label: str, done: float | int, total: float | int) -> None:
    """Do not report progress."""


@dataclass(frozen=True, eq=False)
class Work:
    """A job of `jaxiqa.core.workers`: one model, and how it is evaluated.

    Attributes:
        evaluated: the model.
        evaluation: attacks, defenses and certifiers.
        split: the images under attack.
        progress: ``(attack, images done, images in total)`` is told within a unit, in this process.
    """

    evaluated: EvaluatedModel
    evaluation: Evaluation
    split: Split
    progress: Callable[[str, float, float], Any] = silent

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle what cannot be made again by another process."""
        return Work, (self.evaluated, self.evaluation, self.split)

    def runner(self, label: str, strengths: Sequence[Strength]) -> Runner:
        """Return the runner of an attack; the last one is kept."""
        return _runner(self, label, tuple(strengths))

    def purifier(self, label: str) -> Callable[..., Any]:
        """Return a defense; all are kept."""
        if label not in self._purifiers:
            chosen = Defense(UNDEFENDED) if label == UNDEFENDED else self.evaluation.defenses[label]
            self._purifiers[label] = build(label, chosen)
        return self._purifiers[label]

    @cached_property
    def _purifiers(self) -> dict[str, Callable[..., Any]]:
        return {}


@lru_cache(maxsize=1)
def _runner(work: Work, label: str, strengths: tuple[Strength, ...]) -> Runner:
    return AttackPlan(work.evaluated, label, work.evaluation.attacks[label], strengths).runner()
