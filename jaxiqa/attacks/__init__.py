"""Attacks on scores: ``attack(score_fn, images, key) -> images``.

`ATTACKS` maps a name to an attack class: a frozen dataclass whose fields are the options.
`FITTED` maps a name to the functions that fit such an attack to images, ``fit(score_fn, images, key, *, epsilon,
...)``, save it and load it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxiqa.attacks.apgd import APGD
from jaxiqa.attacks.cadv import CAdv
from jaxiqa.attacks.engine.attack import Attack, strength_of
from jaxiqa.attacks.engine.host_metric import from_callable
from jaxiqa.attacks.engine.objective import Maximize, Target, invert_ranks, mirror_ranks, outrank
from jaxiqa.attacks.engine.query_attack import QueryAttack
from jaxiqa.attacks.facpa import FACPA, fit_facpa, load_facpa, save_facpa
from jaxiqa.attacks.fgsm import FGSM, IFGSM
from jaxiqa.attacks.korhonen import Korhonen
from jaxiqa.attacks.madc import MADC
from jaxiqa.attacks.nes import NES
from jaxiqa.attacks.one_pixel import OnePixel
from jaxiqa.attacks.parsimonious import Parsimonious
from jaxiqa.attacks.patch_rs import PatchRS
from jaxiqa.attacks.pgd import PGD
from jaxiqa.attacks.square import Square
from jaxiqa.attacks.ssah import SSAH
from jaxiqa.attacks.stadv import StAdv
from jaxiqa.attacks.uap import UAP, fit_uap, load_uap, save_uap
from jaxiqa.attacks.wrappers.align import Aligned, align, align_levels
from jaxiqa.attacks.wrappers.ensemble import ensemble
from jaxiqa.attacks.wrappers.masking import check_masking
from jaxiqa.attacks.wrappers.per_image import OneByOne
from jaxiqa.attacks.wrappers.pixel_range import InBounds
from jaxiqa.attacks.wrappers.rank_attacks import rank_attacks
from jaxiqa.attacks.wrappers.restarts import Restarts
from jaxiqa.attacks.wrappers.sweep import sweep
from jaxiqa.attacks.zhang import Zhang
from jaxiqa.core.registry import build

ATTACKS: dict[str, type[Any]] = {
    "fgsm": FGSM,
    "ifgsm": IFGSM,
    "pgd": PGD,
    "apgd": APGD,
    "madc": MADC,
    "korhonen": Korhonen,
    "zhang": Zhang,
    "ssah": SSAH,
    "cadv": CAdv,
    "stadv": StAdv,
    "nes": NES,
    "square": Square,
    "parsimonious": Parsimonious,
    "one_pixel": OnePixel,
    "patch_rs": PatchRS,
}


class Fitted(NamedTuple):
    """The functions of an attack that is fitted to images: fit, save, load."""

    fit: Callable[..., Any]
    save: Callable[..., None]
    load: Callable[..., Any]


FITTED = {"uap": Fitted(fit_uap, save_uap, load_uap), "facpa": Fitted(fit_facpa, save_facpa, load_facpa)}

__all__ = [
    "APGD",
    "ATTACKS",
    "FACPA",
    "FGSM",
    "FITTED",
    "IFGSM",
    "MADC",
    "NES",
    "PGD",
    "SSAH",
    "UAP",
    "Aligned",
    "Attack",
    "CAdv",
    "Fitted",
    "InBounds",
    "Korhonen",
    "Maximize",
    "OneByOne",
    "OnePixel",
    "Parsimonious",
    "PatchRS",
    "QueryAttack",
    "Restarts",
    "Square",
    "StAdv",
    "Target",
    "Zhang",
    "align",
    "align_levels",
    "check_masking",
    "ensemble",
    "fit_facpa",
    "fit_uap",
    "from_callable",
    "invert_ranks",
    "load_facpa",
    "load_uap",
    "make",
    "mirror_ranks",
    "outrank",
    "rank_attacks",
    "save_facpa",
    "save_uap",
    "strength_option",
    "sweep",
]


def strength_option(name: str) -> str:
    """Return the name of the option that sets the strength of an attack; ``epsilon`` for fitted attacks.

    >>> strength_option("patch_rs"), strength_option("uap")
    ('area', 'epsilon')
    """
    return strength_of(ATTACKS[name]) if name in ATTACKS else "epsilon"


def make(name: str, *, bounds: tuple[float, float] | None = None, **options: Any) -> Any:
    """Create an attack by name.

    Args:
        name: a key of `ATTACKS`.
        bounds: lowest and highest pixel value, if not 0 and 1; strengths stay shares of the whole range.
        **options: fields of the attack.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, a value is out of range, or the attack must
            be fitted first (`FITTED`); the message says what is allowed.

    >>> make("pgd", epsilon=8 / 255, steps=3).steps
    3
    >>> make("fgsm", eps=8 / 255)
    Traceback (most recent call last):
    ValueError: option of fgsm='eps' is not allowed; choose from 'epsilon', 'objective'
    """
    if name in FITTED:
        raise ValueError(
            f"attack={name!r} is fitted to images first: attacks.FITTED[{name!r}].fit(score_fn, images, key, "
            f"epsilon=...) returns it; FITTED[{name!r}].save and .load store it"
        )
    attack = build(ATTACKS, "attack", name, options)
    return attack if bounds is None else InBounds(attack, *bounds)
