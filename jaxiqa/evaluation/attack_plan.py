"""Resolve an attack of a config once for one model: its networks, strengths and runner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxiqa import attacks
from jaxiqa.config import Attack
from jaxiqa.core.types import ScoreFn
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import Runner, attack_runner
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.fitted_attacks import fitted_attacks
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.results.rows import Strength


@dataclass(frozen=True)
class AttackPlan:
    """One attack of the config, on one model.

    Attributes:
        evaluated: the model.
        label: label of the attack in the config.
        chosen: the attack.
        strengths: strengths in the order of the config, or weak, medium, strong.
    """

    evaluated: EvaluatedModel
    label: str
    chosen: Attack
    strengths: tuple[Strength, ...]

    def runner(self, strengths: Sequence[Strength] | None = None, score_fn: ScoreFn | None = None) -> Runner:
        """Return the runner of the attack at some of its strengths (all by default).

        Args:
            strengths: the strengths to run.
            score_fn: the metric to attack, if not the model itself: for example the model behind a defense.
        """
        epsilons = values(self.strengths if strengths is None else strengths)
        fitted = fitted_attacks(self.evaluated, self.label, self.chosen, epsilons)
        options: dict[str, Any] = dict(self.chosen.options)
        if not fitted:
            options |= load_networks(self.chosen.networks)
        if self.chosen.aligned:
            options.pop(attacks.strength_option(self.chosen.name), None)
        return attack_runner(self.chosen.name, options, epsilons, score_fn or self.evaluated.score_fn, fitted)


def plan_attack(evaluated: EvaluatedModel, label: str, chosen: Attack, split: Split) -> AttackPlan:
    """Make the plan of one attack; strengths that are aligned and not yet known are searched on ``split``."""
    return AttackPlan(evaluated, label, chosen, strengths_of(evaluated, label, chosen, split))


def values(strengths: Sequence[Strength]) -> tuple[float, ...] | None:
    """Return only the ε of the strengths, as `attack_runner` takes them."""
    found = tuple(strength.epsilon for strength in strengths if strength.epsilon is not None)
    return found or None  # an attack has a number for all of its strengths or for none


def strongest(strengths: tuple[Strength, ...]) -> int:
    """Return the index of the largest strength; for aligned strengths, the last index."""
    return (
        len(strengths) - 1
        if strengths[0].level
        else max(range(len(strengths)), key=lambda i: strengths[i].epsilon or 0)
    )
