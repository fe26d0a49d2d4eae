"""Networks passed as callables to attacks, defenses and reports: perceptual distances, and maps to maps."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.files import write_bytes
from jaxiqa.core.registry import check_options
from jaxiqa.networks import adm, colorization, disco, dists, dncnn, fcn, mprnet, srvgg, unet
from jaxiqa.networks.adm import ADM
from jaxiqa.networks.colorization import Colorization
from jaxiqa.networks.disco import DISCO
from jaxiqa.networks.distance import Distance, DistanceTo, NetworkSpec
from jaxiqa.networks.dists import DISTS
from jaxiqa.networks.dncnn import DnCNN
from jaxiqa.networks.fcn import FCN
from jaxiqa.networks.lpips import LPIPS, LPIPS_ALEX_SPEC, LPIPS_SQUEEZE_SPEC, LPIPS_VGG_SPEC
from jaxiqa.networks.mprnet import MPRNet
from jaxiqa.networks.network import Network
from jaxiqa.networks.srvgg import SRVGG
from jaxiqa.networks.unet import UNet
from jaxiqa.pretrained import files, key_map
from jaxiqa.pretrained.containers import Contents, from_mapping

NETWORKS = {
    "dists": dists.SPEC,
    "lpips_alex": LPIPS_ALEX_SPEC,
    "lpips_vgg": LPIPS_VGG_SPEC,
    "lpips_squeeze": LPIPS_SQUEEZE_SPEC,
    "facpa_unet": unet.SPEC,
    "siggraph17": colorization.SPEC,
    "mprnet": mprnet.SPEC,
    "real_esrgan": srvgg.SPEC,
    "adm": adm.SPEC,
    "disco": disco.SPEC,
    "fcn": fcn.SPEC,
    "dncnn": dncnn.SPEC,
}

__all__ = [
    "ADM",
    "DISCO",
    "DISTS",
    "FCN",
    "LPIPS",
    "NETWORKS",
    "SRVGG",
    "Colorization",
    "Distance",
    "DistanceTo",
    "DnCNN",
    "MPRNet",
    "Network",
    "NetworkSpec",
    "UNet",
    "blend",
    "build",
    "load",
    "save",
]

NETWORK = "network"
"""The only entry in the header of a file of `save`: the order of several entries in a file would be random."""

Weights = Mapping[str, Any] | str | os.PathLike[str]


def build(name: str, *, seed: int = 0) -> Distance | Network:
    """Return a network with random weights, for training, as a callable pytree; its ``fresh`` is True.

    Purifiers, certifiers and perceptual distances use a network without training it and raise an error for a fresh one.

    Args:
        name: a key of `NETWORKS`.
        seed: of the random weights.

    Raises:
        ValueError: an unknown name.

    >>> build("unet")
    Traceback (most recent call last):
    ValueError: name='unet' is not allowed; choose from 'dists', 'lpips_alex', 'lpips_vgg', 'lpips_squeeze', ...
    """
    check_choice("name", name, NETWORKS)
    spec = NETWORKS[name]
    return spec.wrap(*nnx.split(spec.build(rngs=nnx.Rngs(seed))), fresh=True)


def load(
    name: str, *, weights: Weights | None, backbone_weights: Weights | None = None, **options: Any
) -> Distance | Network:
    """Return a network with its published weights, as a callable pytree.

    A perceptual distance needs two files: the authors' own, a few kilobytes, and the ImageNet weights of the backbone
    under torchvision's names; their classifier is not used.

    Args:
        name: a key of `NETWORKS`.
        weights: of the network itself (``alpha`` and ``beta``, or ``lin0.model.1.weight``, or ``conv1.weight`` and so
            on): a file, or a mapping from the published names to arrays; or a file of `save`.
        backbone_weights: of a distance's backbone (``features.0.weight`` and so on), in the same forms.
        **options: of the network's class. Sizes that the weights determine are optional.

    Raises:
        ValueError: an unknown name or option, or weights of another network; the message lists all keys that differ.

    >>> load("lpips", weights="alex.safetensors")
    Traceback (most recent call last):
    ValueError: name='lpips' is not allowed; choose from 'dists', 'lpips_alex', 'lpips_vgg', 'lpips_squeeze', ...
    """
    check_choice("name", name, NETWORKS)
    if weights is None:
        raise ValueError(f"weights=None: {name} needs a file of trained weights (a fresh network is build({name!r}))")
    spec = NETWORKS[name]
    arguments = {"weights": weights, "backbone_weights": backbone_weights}
    given = {argument: value for argument, value in arguments.items() if value is not None}
    source = " and ".join(
        argument if isinstance(value, Mapping) else f"{argument}={str(value)!r}" for argument, value in given.items()
    )
    found = {argument: _contents(value) for argument, value in given.items()}
    own, backbone = found["weights"].arrays, found["backbone_weights"].arrays if "backbone_weights" in found else {}
    own, backbone = (key_map.without_prefix(arrays, spec.rules) for arrays in (own, backbone))
    if twice := sorted(own.keys() & backbone.keys()):
        raise ValueError(f"weights and backbone_weights both hold {', '.join(twice)}")
    rules: Sequence[key_map.Rule]
    if NETWORK in found["weights"].metadata:
        written = json.loads(found["weights"].metadata[NETWORK])
        if written["name"] != name:
            raise ValueError(f"{source} holds a {written['name']}, not a {name}")
        rules, read = key_map.IDENTITY, written["options"]
    else:
        rules, read = spec.rules, spec.options(own)
    model = _abstract(name, read | options)
    key_map.fill(model, own | backbone, rules, source=source)
    return spec.wrap(*nnx.split(model))


def save(name: str, network: Network, path: str | os.PathLike[str], **options: Any) -> None:
    """Write a network to a ``.safetensors`` file for ``load(name, weights=path)``.

    Args:
        name: a key of `NETWORKS`.
        network: the network.
        path: the file; it is replaced atomically.
        **options: those with which the network was built.

    Raises:
        ValueError: ``name`` is unknown.
        jaxiqa.core.files.WriteError: the file cannot be written.

    >>> import jax, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "fcn.safetensors"
    >>> save("fcn", Network(*nnx.split(FCN(rngs=nnx.Rngs(0)))), path)
    >>> load("fcn", weights=path)(jax.numpy.zeros((1, 4, 5, 3))).shape
    (1, 4, 5, 3)
    """
    check_choice("name", name, NETWORKS)
    module = nnx.merge(network.graphdef, network.state)
    arrays = {key: np.asarray(variable[...]) for key, variable in key_map.parameters(module).items()}
    header = {NETWORK: json.dumps({"name": name, "options": options})}
    write_bytes(Path(path), safetensors.numpy.save(arrays, header))


def blend(first: Weights, second: Weights, share: float = 0.2) -> dict[str, np.ndarray]:
    """Return ``share · first + (1 − share) · second``, key by key, of two checkpoints of the same network.

    It sets the strength of Real-ESRGAN's denoising. The benchmark (arXiv:2408.01541) used
    ``blend("realesr-general-x4v3.pth", "realesr-general-wdn-x4v3.pth")``.

    Raises:
        ValueError: the two are of different networks, or ``share`` is outside [0, 1].

    >>> blend({"bias": np.ones(2)}, {"bias": np.zeros(2)})["bias"].tolist()
    [0.2, 0.2]
    """
    check_number("share", share, 0.0, 1.0)
    ours, theirs = _contents(first).arrays, _contents(second).arrays
    if different := sorted(
        key for key in ours.keys() | theirs.keys() if np.shape(ours.get(key)) != np.shape(theirs.get(key))
    ):
        raise ValueError(f"first and second are not of one network; they differ in {', '.join(different[:5])}")
    return {key: (share * array + (1 - share) * theirs[key]).astype(array.dtype) for key, array in ours.items()}


def _abstract(name: str, options: Mapping[str, Any]) -> nnx.Module:
    build = NETWORKS[name].build
    check_options(name, build, options, hidden=("rngs",))
    return nnx.eval_shape(lambda: build(**options, rngs=nnx.Rngs(0)))


def _contents(given: Weights) -> Contents:
    if isinstance(given, Mapping) and not given:  # then the error lists what is missing
        return Contents({})
    found = from_mapping(given) if isinstance(given, Mapping) else files.contents(given)
    vectors = {name: numbers for name, numbers in found.numbers.items() if numbers.ndim}
    return replace(found, arrays=found.arrays | vectors)
