"""MobileNetV2 with batch norm folded into the convolutions.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.

Stages: ``stem``, ``block0`` … ``block16``, ``head``. There are two networks: one pads and scales its input as
TensorFlow does, one as PyTorch does. The weights of one do not fit the other.

**Differs from the paper**: every convolution has a bias and no batch norm follows it. The converted ImageNet weights
have this form, which is the same function at inference.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.conv import LINEAR, conv
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

# expansion, channels, blocks, stride of the first block
LAYOUT = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


Padding = Literal["SAME", "centred"]


class ConvReLU6(nnx.Module):
    """Compute ``relu6(conv(x))``."""

    activation = "relu6"

    def __init__(self, cin: int, cout: int, size: int, *, stride: int = 1, padding: Padding, rngs: nnx.Rngs):
        self.conv = conv(cin, cout, size, stride=stride, padding=padding, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return activate(self.activation, self.conv(x))


class InvertedResidual(nnx.Module):
    """Compute ``project(relu6(depthwise(relu6(expand(x)))))``, plus ``x`` if the shapes agree."""

    activation = "relu6"

    def __init__(self, cin: int, cout: int, expansion: int, *, stride: int, padding: Padding, rngs: nnx.Rngs):
        inner = cin * expansion
        self.expand = conv(cin, inner, 1, bias=True, rngs=rngs) if expansion > 1 else None
        self.depthwise = conv(inner, inner, 3, stride=stride, groups=inner, padding=padding, bias=True, rngs=rngs)
        self.project = conv(inner, cout, 1, bias=True, init=LINEAR, rngs=rngs)
        self.residual = stride == 1 and cin == cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        y = x if self.expand is None else activate(self.activation, self.expand(x))
        y = self.project(activate(self.activation, self.depthwise(y)))
        return x + y if self.residual else y


def mobilenet_v2(*, width: int = 32, padding: Padding = "SAME", rngs: nnx.Rngs) -> Stages:
    """Build MobileNetV2.

    Args:
        width: channels of the stem. All others scale with it and are rounded to multiples of 8, as for the paper's
            width multiplier α = width / 32; for the head, α is at least 1.
        padding: ``"SAME"`` as in TensorFlow, ``"centred"`` as in PyTorch; they differ at stride 2.
        rngs: random numbers for the weights: He's normal scale by fan-in.

    Returns:
        The stages; 1280 channels at the end for widths up to 32.
    """
    stages: dict[str, tuple[nnx.Module, int]] = {
        "stem": (ConvReLU6(3, width, 3, stride=2, padding=padding, rngs=rngs), width)
    }
    cin = width
    for expansion, channels, blocks, first_stride in LAYOUT:
        cout = round_channels(channels * width / 32)
        for i in range(blocks):
            stride = first_stride if i == 0 else 1
            block = InvertedResidual(cin, cout, expansion, stride=stride, padding=padding, rngs=rngs)
            stages[f"block{len(stages) - 1}"] = (block, cout)
            cin = cout
    last = max(1280, round_channels(1280 * width / 32))
    stages["head"] = (ConvReLU6(cin, last, 1, padding=padding, rngs=rngs), last)
    return Stages(stages)


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8 that is at least 8 and at most 10 % below ``channels``.

    >>> [round_channels(channels) for channels in (3.0, 16.0, 27.0, 36.0)]
    [8, 16, 32, 40]
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


# Keras' names of a convolution and of its batch norm -> our name of both folded into one.
KERAS = (
    (r"Conv1", r"bn_Conv1", "stem"),
    (r"expanded_conv_(depthwise|project)", r"expanded_conv_\1_BN", r"block0.\1"),
    (r"block_(\d+)_(expand|depthwise|project)", r"block_\1_\2_BN", r"block\1.\2"),
    (r"Conv_1", r"Conv_1_bn", "head"),
)


def from_keras(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the arrays of Keras' MobileNetV2, which has batch norm (ε = 1e-3), to those of the converted file.

    ``kernel · s`` and ``beta - mean · s`` with ``s = gamma / sqrt(variance + ε)``. Other arrays are returned unchanged.
    """
    arrays = dict(arrays)
    for name in list(arrays):
        layer, _, part = name.partition(".")
        found = next(((rule, match) for rule in KERAS if (match := re.fullmatch(rule[0], layer))), None)
        if part not in ("kernel", "depthwise_kernel") or found is None:
            continue
        rule, match = found
        parts = [f"{match.expand(rule[1])}.{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        if not all(part in arrays for part in parts):
            continue
        norm = [arrays.pop(part) for part in parts]
        kernel = arrays.pop(name)
        kernel = kernel.transpose(0, 1, 3, 2) if part == "depthwise_kernel" else kernel
        arrays |= _folded(match.expand(rule[2]), kernel, norm, epsilon=1e-3)
    for part in ("kernel", "bias"):
        for layer in ("predictions", "Logits"):
            if f"{layer}.{part}" in arrays:
                values = arrays.pop(f"{layer}.{part}")
                arrays[f"classifier.{part}"] = values[None, None] if part == "kernel" else values
    return arrays


def _folded(target: str, kernel: np.ndarray, norm: list[np.ndarray], *, epsilon: float) -> dict[str, np.ndarray]:
    gamma, beta, mean, variance = (part.astype(np.float64) for part in norm)
    scale = gamma / np.sqrt(variance + epsilon)
    return {
        f"{target}.kernel": (kernel * scale).astype(np.float32),
        f"{target}.bias": (beta - mean * scale).astype(np.float32),
    }


PARTS = ("expand", "depthwise", "project")
TIMM = ("conv_pw", "conv_dw", "conv_pwl")


def _pytorch_names() -> Iterator[tuple[str, str, str]]:
    """Yield the names of torchvision, then of timm, of a convolution and its batch norm, and ours of both folded."""
    yield "features.0.0", "features.0.1", "stem"
    yield "features.18.0", "features.18.1", "head"
    yield "conv_stem", "bn1", "stem"
    yield "conv_head", "bn2", "head"
    places = [(stage, i) for stage, (_, _, blocks, _) in enumerate(LAYOUT) for i in range(blocks)]
    for block, (stage, i) in enumerate(places):
        theirs, timm, parts = f"features.{block + 1}.conv", f"blocks.{stage}.{i}", PARTS if block else PARTS[1:]
        names = TIMM if block else ("conv_dw", "conv_pw")
        for place, (part, name) in enumerate(zip(parts, names, strict=True)):
            # torchvision groups the two with the ReLU6 that follows; no ReLU6 follows "project".
            group = (f"{place}", f"{place + 1}") if part == "project" else (f"{place}.0", f"{place}.1")
            yield f"{theirs}.{group[0]}", f"{theirs}.{group[1]}", f"block{block}.{part}"
            yield f"{timm}.{name}", f"{timm}.bn{place + 1}", f"block{block}.{part}"


def from_pytorch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold the batch norms (ε = 1e-5) of torchvision's or timm's MobileNetV2; return other arrays unchanged."""
    arrays = dict(arrays)
    for conv_name, norm_name, target in _pytorch_names():
        parts = [f"{norm_name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if f"{conv_name}.weight" in arrays and all(part in arrays for part in parts):
            kernel = arrays.pop(f"{conv_name}.weight").transpose(2, 3, 1, 0)
            arrays |= _folded(target, kernel, [arrays.pop(part) for part in parts], epsilon=1e-5)
            arrays.pop(f"{norm_name}.num_batches_tracked", None)
    for layer in ("classifier.1", "classifier"):
        if f"{layer}.weight" in arrays:
            arrays["classifier.kernel"] = arrays.pop(f"{layer}.weight").T[None, None]
            arrays["classifier.bias"] = arrays.pop(f"{layer}.bias")
    return arrays


RULES = (
    (r"(stem|head)\.(kernel|bias)", r"stage.\1.conv.\2", key_map.same),
    (r"(block\d+)\.(expand|depthwise|project)\.(kernel|bias)", r"stage.\1.\2.\3", key_map.same),
)
CLASSIFIER_KEYS = (
    (r"classifier\.kernel", "head.kernel", key_map.flat_kernel),
    (r"classifier\.bias", "head.bias", key_map.same),
)
MOBILENET_V2 = BackboneSpec(
    build=mobilenet_v2,
    width=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    taps=("block12", "head"),
    levels=("block2", "block5", "block12", "head"),
    classes=1001,  # class 0 is "background", so ImageNet labels that start at 1 are the class numbers
    rules=RULES,
    classifier_rules=CLASSIFIER_KEYS,
    adapt=from_keras,
)
MOBILENET_V2_TORCH = BackboneSpec(
    build=partial(mobilenet_v2, padding="centred"),
    width=32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    taps=("block12", "head"),
    levels=("block2", "block5", "block12", "head"),
    classes=1000,
    rules=RULES,
    classifier_rules=CLASSIFIER_KEYS,
    adapt=from_pytorch,
)
