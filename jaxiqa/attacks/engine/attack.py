"""The interface of attacks."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.core.keys import Keys
from jaxiqa.core.types import Images, ScoreFn


class Attack:
    """Base of every attack.

    An attack is a frozen dataclass that is registered as a pytree. Its fields are its options; fields that decide
    shapes or the program are static. It is called as ``attack(score_fn, images, key) -> attacked images``, ``b h w c``
    in [0, 1], with one random key or one per image. The result of an image depends only on its own key and scores.

    Attributes:
        strength: name of the field that sets the strength; `jaxiqa.attacks.sweep` replaces it.
        objective: how the scores shall change (`jaxiqa.attacks.engine.objective`).
    """

    strength: ClassVar[str] = "epsilon"
    objective: Objective | str

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def shared_prefixes(self, score_fn: ScoreFn, images: Images, epsilons: Sequence[float]) -> list[Any] | None:
        """Compute what runs at several strengths share: one entry per strength, or None if they share nothing.

        `jaxiqa.attacks.sweep` calls it once and passes each entry to its run as ``prefix=``.
        """
        return None


def strength_of(attack: Any) -> str:
    """Return the name of the field that sets the strength of an attack or attack class.

    Raises:
        ValueError: the attack has no such field.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> strength_of(FGSM(0.1)), strength_of(FGSM)
    ('epsilon', 'epsilon')
    """
    kind = attack if isinstance(attack, type) else type(attack)
    name = getattr(kind, "strength", "epsilon")
    if name not in {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"attack={kind.__name__} has no field {name!r} that sets its strength")
    return name
