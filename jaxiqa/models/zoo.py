"""The metrics that come with the package: trained here, ready to use without a file and without a network."""

from importlib import resources
from pathlib import Path

from jaxiqa.core.checks import check_choice

SHIPPED = {
    "jaxiqa-base": "Linearity over EfficientNet-Lite0, trained without hardening",
    "jaxiqa-certified": "a 1-Lipschitz network times a slope, which bounds every change of its score",
}
"""Name -> what it is. Each has a folder in ``jaxiqa/zoo`` with its card (``README.md``)."""

DEFAULT = "jaxiqa-base"
"""The metric of ``jaxiqa score`` if none is named."""


def shipped(name: str) -> Path:
    """Return the folder of a metric that comes with the package: its model and its card, ``README.md``.

    Raises:
        ValueError: there is no such metric; the message lists all.

    >>> sorted(path.name for path in shipped("jaxiqa-base").iterdir())
    ['README.md', 'model.json', 'model.safetensors']
    """
    check_choice("name", name, SHIPPED)
    return Path(str(resources.files("jaxiqa"))) / "zoo" / name
