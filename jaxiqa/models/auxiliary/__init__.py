"""Networks that attacks, defenses and reports are given as callables: perceptual distances between two images."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxiqa.checks import check_choice
from jaxiqa.models import convert
from jaxiqa.models import weights as files
from jaxiqa.models.auxiliary import dists
from jaxiqa.models.auxiliary.distance import Auxiliary, Distance, DistanceTo
from jaxiqa.models.auxiliary.dists import DISTS
from jaxiqa.models.auxiliary.lpips import LPIPS, LPIPS_ALEX, LPIPS_SQUEEZE, LPIPS_VGG

AUXILIARY = {
    "dists": dists.PUBLISHED,
    "lpips_alex": LPIPS_ALEX,
    "lpips_vgg": LPIPS_VGG,
    "lpips_squeeze": LPIPS_SQUEEZE,
}

__all__ = ["AUXILIARY", "DISTS", "LPIPS", "Auxiliary", "Distance", "DistanceTo", "load"]

Weights = Mapping[str, Any] | str | os.PathLike[str]


def load(name: str, *, weights: Weights, backbone_weights: Weights) -> Distance:
    """A perceptual distance with its published weights.

    The two come in two files: the authors' own, a few kilobytes, and the ImageNet weights of the backbone, in
    torchvision's names; the classifier among them is left out.

    Args:
        name: a key of `AUXILIARY`.
        weights: of the distance (``alpha`` and ``beta``, or ``lin0.model.1.weight`` and so on): a file, or a mapping
            from the published names to arrays.
        backbone_weights: of the backbone (``features.0.weight`` and so on), likewise.

    Raises:
        ValueError: an unknown name, or weights of another network; every key that does not fit is listed.

    >>> load("lpips", weights="alex.safetensors", backbone_weights="alexnet.safetensors")
    Traceback (most recent call last):
    ValueError: name='lpips' is not allowed; choose from 'dists', 'lpips_alex', 'lpips_vgg', 'lpips_squeeze'
    """
    check_choice("name", name, AUXILIARY)
    spec = AUXILIARY[name]
    given = {"weights": weights, "backbone_weights": backbone_weights}
    arrays = {argument: _arrays(value) for argument, value in given.items()}
    model = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    if twice := sorted(arrays["weights"].keys() & arrays["backbone_weights"].keys()):
        raise ValueError(f"weights and backbone_weights both hold {', '.join(twice)}")
    source = " and ".join(
        argument if isinstance(value, Mapping) else f"{argument}={str(value)!r}" for argument, value in given.items()
    )
    convert.fill(model, arrays["weights"] | arrays["backbone_weights"], spec.keys, source=source)
    return Distance(*nnx.split(model))


def _arrays(given: Weights) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping):
        return {name: np.asarray(array) for name, array in given.items()}
    return files.read(given)
