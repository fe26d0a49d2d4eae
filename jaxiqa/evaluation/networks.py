"""The networks that attacks and defenses are given."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
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
            found[option] = _read(network, tuple(_state(path) for path in _paths(network).values()))
    return found


@lru_cache(maxsize=8)
def _read(network: Network, files: tuple) -> Any:
    """Once per process, as long as its files stay what they are."""
    del files
    return networks.load(network.name, **_paths(network))


def _paths(network: Network) -> dict[str, str | None]:
    files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
    return {name: _find(path) for name, path in files.items()}


def _state(path: str | None) -> tuple[int, ...] | None:
    """What changes with a file's content; None for a file that cannot be looked at, which reading it explains."""
    try:
        stat = os.stat(path) if path else None
    except OSError:
        return None
    return stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns)


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
