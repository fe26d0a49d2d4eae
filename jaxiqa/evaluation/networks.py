"""Load the networks of attacks and defenses."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxiqa import data, networks
from jaxiqa.config import Network


def load_networks(chosen: Mapping[str, Network], *, training: bool = False) -> dict[str, Any]:
    """Load the networks of an attack or a defense, by option.

    Relative paths are searched in the working directory, then below $JAXIQA_DATA.

    Args:
        chosen: networks of the config.
        training: whether they are trained before use; then a network without a file has random weights.

    Raises:
        ValueError: a network has no file and is not trained.
    """
    found = {}
    for option, network in chosen.items():
        if network.weights is None:
            if not training:
                raise ValueError(
                    f"networks.{option}.weights is missing: {network.name} would have random weights; give its file"
                )
            found[option] = networks.build(network.name)
        else:
            found[option] = _read(network, tuple(_state(path) for path in _paths(network).values()))
    return found


@lru_cache(maxsize=8)
def _read(network: Network, files: tuple) -> Any:
    """Read a network once per process, as long as its files are unchanged."""
    del files
    return networks.load(network.name, **_paths(network))


def _paths(network: Network) -> dict[str, str | None]:
    files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
    return {name: _find(path) for name, path in files.items()}


def _state(path: str | None) -> tuple[int, ...] | None:
    """Return file statistics that change with the content; None if there are none; reading then raises the error."""
    try:
        stat = os.stat(path) if path else None
    except OSError:
        return None
    return stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def weight_digests(networks: Mapping[str, Network]) -> dict[str, str]:
    """Return the SHA-256 digest of every weight file; rows of a network with other weights are not reused."""
    paths = {path for network in networks.values() for path in (network.weights, network.backbone_weights) if path}
    found = {}
    for path in sorted(paths):
        with open(_find(path) or path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _find(path: str | None) -> str | None:
    return path if path is None or Path(path).exists() else str(data.resolve(path))
