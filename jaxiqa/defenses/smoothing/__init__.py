"""Randomised smoothing: ``certify(score_fn, images, key) -> Certificate``.

`CERTIFIERS` maps a name to a certifier class: a frozen dataclass whose fields are the options.
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
    """Create a certifier by name.

    Args:
        name: a key of `CERTIFIERS`.
        **options: fields of the certifier.

    Raises:
        ValueError: the name or an option is unknown, an option is missing, or a value is out of range; the message
            lists what is allowed.

    >>> make("ms", n=500).n
    500
    >>> make("rs")
    Traceback (most recent call last):
    ValueError: rs needs score_range; see jaxiqa.defenses.smoothing.RS
    """
    return build(CERTIFIERS, "certifier", name, options)
