"""Randomised smoothing: ``certify(score_fn, images, key) -> Certificate``.

`CERTIFIERS` maps a name to a frozen dataclass of options that is such a function.
"""

import dataclasses
from typing import Any

from jaxiqa.core.checks import check_choice
from jaxiqa.defenses.smoothing.ddrs import DDRS
from jaxiqa.defenses.smoothing.densepure import DensePure
from jaxiqa.defenses.smoothing.median import DMS, MS
from jaxiqa.defenses.smoothing.randomized import DRS, RS

CERTIFIERS = {"rs": RS, "drs": DRS, "ddrs": DDRS, "densepure": DensePure, "ms": MS, "dms": DMS}

__all__ = ["CERTIFIERS", "DDRS", "DMS", "DRS", "MS", "RS", "DensePure", "make"]


def make(name: str, **options: Any) -> Any:
    """The certifier of this name with these options.

    Args:
        name: a key of `CERTIFIERS`.
        **options: fields of the certifier.

    Raises:
        ValueError: an unknown name or option, a missing one, or a value out of range; says what is allowed.

    >>> make("ms", n=500).n
    500
    >>> make("rs")
    Traceback (most recent call last):
    ValueError: rs needs score_range; see jaxiqa.defenses.smoothing.RS
    """
    check_choice("certifier", name, CERTIFIERS)
    fields = {field.name: field for field in dataclasses.fields(CERTIFIERS[name])}
    for option in options:
        check_choice(f"option of {name}", option, fields)
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in options:
            raise ValueError(f"{name} needs {field.name}; see jaxiqa.defenses.smoothing.{CERTIFIERS[name].__name__}")
    return CERTIFIERS[name](**options)
