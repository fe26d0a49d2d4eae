"""Metrics that have weights of their own: those that come with the package, and addresses on the Hugging Face hub."""

from importlib import resources
from pathlib import Path
from typing import Any

from jaxiqa.core.hub_address import is_hub_address
from jaxiqa.pretrained import hub

SHIPPED = {
    "jaxiqa-base": "Linearity over EfficientNet-Lite0, trained without hardening",
    "jaxiqa-robust": "jaxiqa-base behind a filter of small details, hardened by configs/recommended.py",
    "jaxiqa-certified": "a 1-Lipschitz network times a slope, which bounds every change of its score",
}
"""Name -> what it is. Each has a folder in ``jaxiqa/zoo`` with its card (``README.md``)."""

SCALE = "0 to 100, the scale of the human scores of its training images (CLIVE); higher is better"
"""The scale of the scores of every metric in `SHIPPED`."""

DEFAULT = "jaxiqa-base"
"""The metric of ``jaxiqa score`` if none is named."""


def is_complete(name: Any) -> bool:
    """Return whether a metric of this name needs no weights.

    >>> is_complete("jaxiqa-base"), is_complete("hf://owner/name"), is_complete("linearity"), is_complete(None)
    (True, True, False, False)
    """
    return isinstance(name, str) and (name in SHIPPED or is_hub_address(name))


def folder_of(name: str) -> Path:
    """Return the folder of a metric that needs no weights: its model, and its card ``README.md``.

    Args:
        name: a key of `SHIPPED`; or an address on the hub, which is downloaded (`jaxiqa.pretrained.hub.fetch`).

    Raises:
        FileNotFoundError: the hub has no such metric, or cannot be reached.
        ValueError: ``name`` is neither.

    >>> sorted(path.name for path in folder_of("jaxiqa-base").iterdir())
    ['README.md', 'model.json', 'model.safetensors.gz']
    """
    return Path(str(resources.files("jaxiqa"))) / "zoo" / name if name in SHIPPED else hub.fetch(name)
