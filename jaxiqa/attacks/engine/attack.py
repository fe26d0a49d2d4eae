"""The protocol of attacks: what every attack has, and what the rest of the library may ask of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.core.keys import Keys
from jaxiqa.core.types import Images, ScoreFn


class Attack:
    """Base of every attack.

    An attack is a frozen dataclass that is registered as a pytree: its options are fields; those that decide shapes or
    the program are static. It is called as ``attack(score_fn, images, key) -> attacked images``, ``b h w c`` in [0, 1],
    with a random key, or one per image. Each image's result depends on its own key and scores alone.

    Attributes:
        strength: name of the field that makes it stronger or weaker, which `jaxiqa.attacks.sweep` replaces.
        objective: what it does to the scores (`jaxiqa.attacks.engine.objective`).
    """

    strength: ClassVar[str] = "epsilon"
    objective: Objective | str

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        raise NotImplementedError(f"{type(self).__name__} has no __call__")

    def shared_prefixes(self, score_fn: ScoreFn, images: Images, epsilons: Sequence[float]) -> list[Any] | None:
        """What the runs at several strengths have in common, one entry per strength, or None where nothing is shared.

        `jaxiqa.attacks.sweep` computes it once and passes each entry to its run as ``prefix=``.
        """
        return None


def strength_of(attack: Any) -> str:
    """The field that makes an attack, or all attacks of a class, stronger or weaker.

    Raises:
        ValueError: the attack has no such field.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> strength_of(FGSM(0.1)), strength_of(FGSM)
    ('epsilon', 'epsilon')
    """
    kind = attack if isinstance(attack, type) else type(attack)
    name = getattr(kind, "strength", "epsilon")
    if name not in {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"attack={kind.__name__} has no {name} to sweep over")
    return name
