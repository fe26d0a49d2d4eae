"""Networks that attacks, defenses and reports are given as callables: perceptual distances, and maps to maps."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxiqa.checks import check_choice
from jaxiqa.models import convert
from jaxiqa.models import weights as files
from jaxiqa.models.auxiliary import colorization, dists, unet
from jaxiqa.models.auxiliary.colorization import Colorization
from jaxiqa.models.auxiliary.distance import Auxiliary, Distance, DistanceTo
from jaxiqa.models.auxiliary.dists import DISTS
from jaxiqa.models.auxiliary.lpips import LPIPS, LPIPS_ALEX, LPIPS_SQUEEZE, LPIPS_VGG
from jaxiqa.models.auxiliary.network import Network
from jaxiqa.models.auxiliary.unet import UNet

AUXILIARY = {
    "dists": dists.PUBLISHED,
    "lpips_alex": LPIPS_ALEX,
    "lpips_vgg": LPIPS_VGG,
    "lpips_squeeze": LPIPS_SQUEEZE,
    "facpa_unet": unet.PUBLISHED,
    "siggraph17": colorization.PUBLISHED,
}

__all__ = [
    "AUXILIARY",
    "DISTS",
    "LPIPS",
    "Auxiliary",
    "Colorization",
    "Distance",
    "DistanceTo",
    "Network",
    "UNet",
    "build",
    "load",
]

Weights = Mapping[str, Any] | str | os.PathLike[str]


def build(name: str, *, seed: int = 0) -> Distance | Network:
    """A network with random weights, to be trained, as a pytree that can be called.

    Args:
        name: a key of `AUXILIARY`.
        seed: of the random weights.

    Raises:
        ValueError: an unknown name.

    >>> build("unet")
    Traceback (most recent call last):
    ValueError: name='unet' is not allowed; choose from 'dists', 'lpips_alex', 'lpips_vgg', 'lpips_squeeze', ...
    """
    check_choice("name", name, AUXILIARY)
    spec = AUXILIARY[name]
    return spec.wrap(*nnx.split(spec.build(rngs=nnx.Rngs(seed))))


def load(name: str, *, weights: Weights, backbone_weights: Weights | None = None) -> Distance | Network:
    """A network with its published weights, as a pytree that can be called.

    Those of a perceptual distance come in two files: the authors' own, a few kilobytes, and the ImageNet weights of the
    backbone, in torchvision's names; the classifier among them is left out.

    Args:
        name: a key of `AUXILIARY`.
        weights: of the network itself (``alpha`` and ``beta``, or ``lin0.model.1.weight``, or ``conv1.weight`` and so
            on): a file, or a mapping from the published names to arrays.
        backbone_weights: of a distance's backbone (``features.0.weight`` and so on), likewise.

    Raises:
        ValueError: an unknown name, or weights of another network; every key that does not fit is listed.

    >>> load("lpips", weights="alex.safetensors")
    Traceback (most recent call last):
    ValueError: name='lpips' is not allowed; choose from 'dists', 'lpips_alex', 'lpips_vgg', 'lpips_squeeze', ...
    """
    check_choice("name", name, AUXILIARY)
    spec = AUXILIARY[name]
    given = {"weights": weights, "backbone_weights": backbone_weights}
    given = {argument: value for argument, value in given.items() if value is not None}
    arrays = {argument: _arrays(value) for argument, value in given.items()}
    model = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    own, backbone = arrays["weights"], arrays.get("backbone_weights", {})
    if twice := sorted(own.keys() & backbone.keys()):
        raise ValueError(f"weights and backbone_weights both hold {', '.join(twice)}")
    source = " and ".join(
        argument if isinstance(value, Mapping) else f"{argument}={str(value)!r}" for argument, value in given.items()
    )
    convert.fill(model, own | backbone, spec.keys, source=source)
    return spec.wrap(*nnx.split(model))


def _arrays(given: Weights) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping):
        return {name: np.asarray(array) for name, array in given.items()}
    return files.read(given)
