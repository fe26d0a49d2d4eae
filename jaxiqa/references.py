"""The paper to cite for each method."""

import inspect
import re
from typing import Any


def citation(name: str) -> str:
    """Return the source of an attack, purifier, certifier, metric or network, by its name in the registry.

    Raises:
        ValueError: an unknown name, or a method without a paper.

    >>> citation("linearity")
    'LinearityIQA: arXiv:2008.03889'
    >>> citation("square")
    'Andriushchenko et al., ...1912.00049.'
    >>> citation("sqare")
    Traceback (most recent call last):
    ValueError: name='sqare' is not known; did you mean 'square'? There are 'dists', ...
    """
    from jaxiqa.config.suggest import suggestion

    known = _registered()
    if name not in known:
        raise ValueError(f"name={name!r} is not known{suggestion(name, known)}")
    thing = known[name]
    if hasattr(thing, "paper"):
        return f"{thing.title}: {thing.paper}"
    found = re.search(r"^\s*Reference:\s*(.+?)(?=\n\s*\n|\Z)", inspect.getdoc(thing) or "", re.S | re.M)
    if not found:
        raise ValueError(f"{name} has no paper of its own")
    return " ".join(found[1].split())


def _registered() -> dict[str, Any]:
    from jaxiqa.attacks import ATTACKS, FITTED
    from jaxiqa.defenses.purify import PURIFIERS
    from jaxiqa.defenses.smoothing import CERTIFIERS
    from jaxiqa.models import MODELS
    from jaxiqa.networks import NETWORKS

    fitted = {name: kind.fit for name, kind in FITTED.items()}
    return {**NETWORKS, **MODELS, **CERTIFIERS, **PURIFIERS, **fitted, **ATTACKS}
