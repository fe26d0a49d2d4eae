"""Randomised smoothing: ``certify(score_fn, images, key) -> Certificate``.

`CERTIFIERS` maps a name to a frozen dataclass of options that is such a function.
"""

from typing import Any

from jaxiqa.core.registry import build
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
    return build(CERTIFIERS, "certifier", name, options)
