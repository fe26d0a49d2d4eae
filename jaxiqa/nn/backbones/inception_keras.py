"""Map Keras' parameter names of Inception-ResNet-v2, numbered in order of creation, to those of the PyTorch ports."""

import re
from collections.abc import Mapping

import numpy as np

_BLOCK8 = ("branch0", "branch1.0", "branch1.1", "branch1.2")
_BLOCK35 = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2")
ORDER = (
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"),
    *(f"mixed_5b.{place}" for place in (*_BLOCK35, "branch3.1")),
    *(f"repeat.{i}.{place}" for i in range(10) for place in _BLOCK35),
    *(f"mixed_6a.{place}" for place in _BLOCK8),
    *(f"repeat_1.{i}.{place}" for i in range(20) for place in _BLOCK8),
    *(f"mixed_7a.branch{branch}.{i}" for branch, count in enumerate((2, 2, 3)) for i in range(count)),
    *(f"repeat_2.{i}.{place}" for i in range(9) for place in _BLOCK8),
    *(f"block8.{place}" for place in _BLOCK8),
)
"""The 203 convolutions without a name of their own, in the order in which Keras creates them."""

NAMED = {
    **{f"block35_{i + 1}_conv": f"repeat.{i}.conv2d" for i in range(10)},
    **{f"block17_{i + 1}_conv": f"repeat_1.{i}.conv2d" for i in range(20)},
    **{f"block8_{i + 1}_conv": f"repeat_2.{i}.conv2d" for i in range(9)},
    "block8_10_conv": "block8.conv2d",
}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def from_keras(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and transpose the arrays of a Keras file as in the PyTorch ports; return other files unchanged.

    Keras continues its numbering from networks built before, so only the order of the numbers is used. Its batch norms
    have no scale; it is set to one.

    Raises:
        ValueError: the number of unnamed convolutions is not 203.
    """
    layers = {name.partition(".")[0] for name in arrays}
    convs = sorted((name for name in layers if re.fullmatch(r"conv2d(_\d+)?", name)), key=_number)
    norms = sorted((name for name in layers if re.fullmatch(r"batch_normalization(_\d+)?", name)), key=_number)
    if not norms:
        return dict(arrays)
    if len(convs) != len(ORDER) or len(norms) != len(ORDER):
        given = f"{len(convs)} convolutions and {len(norms)} batch norms"
        raise ValueError(f"Keras' Inception-ResNet-v2 has {len(ORDER)} unnamed layers of each kind, this file {given}")
    targets = {name: f"{place}.conv" for name, place in zip(convs, ORDER, strict=True)} | NAMED
    targets |= {"conv_7b": "conv2d_7b.conv"}
    scaled = {name: f"{place}.bn" for name, place in zip(norms, ORDER, strict=True)} | {"conv_7b_bn": "conv2d_7b.bn"}
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        layer, _, part = name.partition(".")
        if layer in targets and part in ("kernel", "bias"):
            target = f"{targets[layer]}.{'weight' if part == 'kernel' else 'bias'}"
            found[target] = array.transpose(3, 2, 0, 1) if part == "kernel" else array
        elif layer in scaled and part in NORM:
            found[f"{scaled[layer]}.{NORM[part]}"] = array
            found.setdefault(f"{scaled[layer]}.weight", np.ones(array.shape, np.float32))
        elif layer == "predictions" and part in ("kernel", "bias"):
            found["last_linear.weight" if part == "kernel" else "last_linear.bias"] = array.T
        else:
            found[name] = array
    return found


def _number(name: str) -> int:
    return int(name.rpartition("_")[2]) if name[-1].isdigit() else 0
