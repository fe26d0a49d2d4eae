"""Attacks on scores: ``attack(score_fn, images, key) -> images``.

`ATTACKS` maps a name to a frozen dataclass of options that is such a function. `FITTED` maps a name to a function
``(score_fn, images, key, *, epsilon, ...)`` that learns one from images.
"""

import dataclasses
from typing import Any

from jaxiqa.attacks.fgsm import FGSM, IFGSM
from jaxiqa.attacks.pgd import PGD
from jaxiqa.attacks.stadv import StAdv
from jaxiqa.attacks.sweep import sweep
from jaxiqa.attacks.uap import UAP, fit_uap, load, save
from jaxiqa.checks import check_choice

ATTACKS = {"fgsm": FGSM, "ifgsm": IFGSM, "pgd": PGD, "stadv": StAdv}
FITTED = {"uap": fit_uap}

__all__ = ["ATTACKS", "FGSM", "FITTED", "IFGSM", "PGD", "UAP", "StAdv", "fit_uap", "load", "make", "save", "sweep"]


def make(name: str, **options: Any) -> Any:
    """The attack of this name with these options.

    Raises:
        ValueError: an unknown name or option, or a value out of range; says what is allowed.

    >>> make("pgd", epsilon=8 / 255, steps=3).steps
    3
    >>> make("fgsm", eps=8 / 255)
    Traceback (most recent call last):
    ValueError: option of fgsm='eps' is not allowed; choose from 'epsilon', 'objective'
    """
    check_choice("attack", name, ATTACKS)
    allowed = [field.name for field in dataclasses.fields(ATTACKS[name])]
    for option in options:
        check_choice(f"option of {name}", option, allowed)
    if "epsilon" in allowed and "epsilon" not in options:
        raise ValueError(f"{name} needs epsilon, its strength")
    return ATTACKS[name](**options)
