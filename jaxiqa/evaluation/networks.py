"""The networks that attacks and defenses are given."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxiqa import data, networks
from jaxiqa.config import Network


def load_networks(chosen: Mapping[str, Network], *, training: bool = False) -> dict[str, Any]:
    """The networks of an attack or a defense, by option. A relative path is looked up here, then under $JAXIQA_DATA.

    Args:
        chosen: of the config.
        training: whether they are trained before they are used: then one without a file is a fresh one.

    Raises:
        ValueError: no file is named, and nothing trains the network.
    """
    found = {}
    for option, network in chosen.items():
        if network.weights is None:
            if not training:
                raise ValueError(
                    f"networks.{option}.weights is missing: {network.name} would have random weights; name its file"
                )
            found[option] = networks.build(network.name)
        else:
            files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
            found[option] = networks.load(network.name, **{name: _find(path) for name, path in files.items()})
    return found


def weight_digests(networks: Mapping[str, Network]) -> dict[str, str]:
    """SHA-256 of every file of weights: rows of a network that was trained anew are not those of the old one."""
    paths = {path for network in networks.values() for path in (network.weights, network.backbone_weights) if path}
    found = {}
    for path in sorted(paths):
        with open(_find(path) or path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _find(path: str | None) -> str | None:
    return path if path is None or Path(path).exists() else str(data.resolve(path))
