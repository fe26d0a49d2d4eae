"""The networks that attacks and defenses are given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from jaxiqa import data
from jaxiqa.checks import check_choice
from jaxiqa.config import Network
from jaxiqa.models import auxiliary


def load_networks(networks: Mapping[str, Network]) -> dict[str, Any]:
    """The networks of an attack or a defense, by option: fresh ones where no file is named.

    A relative path is looked up here, then under $JAXIQA_DATA.
    """
    found = {}
    for option, network in networks.items():
        if network.weights is None:
            check_choice(f"network {option}", network.name, auxiliary.AUXILIARY)
            spec = auxiliary.AUXILIARY[network.name]
            found[option] = spec.wrap(*nnx.split(spec.build(rngs=nnx.Rngs(0))))
        else:
            files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
            found[option] = auxiliary.load(network.name, **{name: _find(path) for name, path in files.items()})
    return found


def _find(path: str | None) -> str | None:
    return path if path is None or Path(path).exists() else str(data.resolve(path))
