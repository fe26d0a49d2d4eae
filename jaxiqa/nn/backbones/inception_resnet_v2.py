"""Inception-ResNet-v2, in the form of the converted TensorFlow weights.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", arXiv:1602.07261.

Stages: ``conv2d_1a`` … ``maxpool_5a`` (the stem), ``mixed_5b``, ``block35.0`` … ``block35.9``, ``mixed_6a``,
``block17.0`` … ``block17.19``, ``mixed_7a``, ``block8.0`` … ``block8.9``, ``conv2d_7b``. The smallest image is 75 × 75.

**Differs from the paper** as the published network does: a shorter stem that ends in ``mixed_5b``, residual blocks on
320, 1088 and 2080 channels (paper: 384, 1154, 2048), and a last ``block8`` with neither scale nor ReLU.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones.inception_keras import from_keras
from jaxiqa.nn.blur import blurred
from jaxiqa.nn.conv import conv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

Size = int | tuple[int, int]
Branch = Sequence[tuple[int, Size]]
"""Consecutive convolutions: (channels, kernel size)."""

BLOCK35: tuple[Branch, ...] = ([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)])
BLOCK17: tuple[Branch, ...] = ([(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))])
BLOCK8: tuple[Branch, ...] = ([(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))])
MIXED_5B: tuple[Branch, ...] = ([(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], [(64, 1)])
MIXED_6A: tuple[Branch, ...] = ([(384, 3)], [(256, 1), (256, 3), (384, 3)])
MIXED_7A: tuple[Branch, ...] = ([(256, 1), (384, 3)], [(256, 1), (288, 3)], [(256, 1), (288, 3), (320, 3)])


class ConvNormReLU(nnx.Module):
    """Compute ``relu(bn(conv(x)))``."""

    activation = "relu"

    def __init__(
        self,
        cin: int,
        cout: int,
        size: Size,
        *,
        stride: int = 1,
        padding: Literal["centred"] | int = "centred",
        rngs: nnx.Rngs,
    ):
        self.conv = conv(cin, cout, size, stride=stride, padding=padding, rngs=rngs)
        self.bn = nnx.BatchNorm(cout, use_running_average=True, momentum=0.9, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return activate(self.activation, self.bn(self.conv(x)))


class MaxPool(nnx.Module):
    """Maximum of 3×3 windows, stride 2, no padding."""

    blur = 1

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return max_pool(blurred(x, self.blur), 3, 2)


class AveragePool(nnx.Module):
    """Mean over 3×3 windows, stride 1; pixels outside the map do not count."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def branch(cin: int, layers: Branch, *, shrink: bool = False, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Build the convolutions of one branch; with ``shrink`` the last one has stride 2 and no padding."""
    modules: list[nnx.Module] = []
    for i, (cout, size) in enumerate(layers):
        last: dict[str, Any] = {"stride": 2, "padding": 0} if shrink and i == len(layers) - 1 else {}
        modules.append(ConvNormReLU(cin, cout, size, **last, rngs=rngs))
        cin = cout
    return modules


class Mixed(nnx.Module):
    """Compute ``concat(branch_0(x), branch_1(x), …)`` over the channels.

    Args:
        cin: channels of the input.
        branches: their convolutions.
        pool: before the last branch (``"average"``), or as a further branch (``"max"``, which shrinks the map; then the
            last convolution of every branch does so too).
        rngs: random numbers for the weights.
    """

    def __init__(self, cin: int, branches: Sequence[Branch], *, pool: Literal["average", "max"], rngs: nnx.Rngs):
        shrink = pool == "max"
        chains = [branch(cin, layers, shrink=shrink, rngs=rngs) for layers in branches]
        if shrink:
            chains.append([MaxPool()])
        else:
            chains[-1].insert(0, AveragePool())
        self.branch = nnx.List([nnx.List(chain) for chain in chains])

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return concatenated(self.branch, x)


class ResidualBlock(nnx.Module):
    """Compute ``relu(x + scale · project(concat(branch_0(x), branch_1(x), …)))``; ``project`` is a 1×1 convolution with
    bias."""

    activation = "relu"

    def __init__(self, cin: int, branches: Sequence[Branch], *, scale: float, relu: bool = True, rngs: nnx.Rngs):
        self.branch = nnx.List([nnx.List(branch(cin, layers, rngs=rngs)) for layers in branches])
        self.project = conv(sum(layers[-1][0] for layers in branches), cin, 1, bias=True, rngs=rngs)
        self.scale, self.relu = scale, relu

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x + self.scale * self.project(concatenated(self.branch, x))
        return activate(self.activation, y) if self.relu else y


def concatenated(branches: Sequence[Sequence[Any]], x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
    """Apply the branches to ``x`` and concatenate their outputs along the channels."""
    outputs = []
    for layers in branches:
        y = x
        for layer in layers:
            y = layer(y)
        outputs.append(y)
    return jnp.concatenate(outputs, axis=-1)


def inception_resnet_v2(*, width: int = 32, rngs: nnx.Rngs) -> Stages:
    """Build Inception-ResNet-v2.

    Args:
        width: channels of ``conv2d_1a``; all others scale with it.
        rngs: random numbers for the weights: He's normal scale by fan-in.

    Returns:
        The stages; batch norm uses running statistics (ε = 0.001); the last stage has 1536 channels.
    """

    def scaled(channels: int) -> int:
        return max(1, channels * width // 32)

    def narrow(branches: Sequence[Branch]) -> list[Branch]:
        return [[(scaled(cout), size) for cout, size in layers] for layers in branches]

    stages: dict[str, tuple[nnx.Module, int]] = {}
    cin = 3

    def add(name: str, module: nnx.Module, cout: int) -> None:
        nonlocal cin
        stages[name] = (module, cout)
        cin = cout

    def convolve(name: str, channels: int, size: Size, **options: Any) -> None:
        add(name, ConvNormReLU(cin, scaled(channels), size, **options, rngs=rngs), scaled(channels))

    def mix(name: str, branches: Sequence[Branch], pool: Literal["average", "max"]) -> None:
        cout = sum(scaled(layers[-1][0]) for layers in branches) + (cin if pool == "max" else 0)
        add(name, Mixed(cin, narrow(branches), pool=pool, rngs=rngs), cout)

    def repeat(name: str, times: int, branches: Sequence[Branch], scale: float) -> None:
        for i in range(times):
            add(f"{name}.{i}", ResidualBlock(cin, narrow(branches), scale=scale, rngs=rngs), cin)

    convolve("conv2d_1a", 32, 3, stride=2, padding=0)
    convolve("conv2d_2a", 32, 3, padding=0)
    convolve("conv2d_2b", 64, 3)
    add("maxpool_3a", MaxPool(), cin)
    convolve("conv2d_3b", 80, 1)
    convolve("conv2d_4a", 192, 3, padding=0)
    add("maxpool_5a", MaxPool(), cin)
    mix("mixed_5b", MIXED_5B, "average")
    repeat("block35", 10, BLOCK35, 0.17)
    mix("mixed_6a", MIXED_6A, "max")
    repeat("block17", 20, BLOCK17, 0.10)
    mix("mixed_7a", MIXED_7A, "max")
    repeat("block8", 9, BLOCK8, 0.20)
    add("block8.9", ResidualBlock(cin, narrow(BLOCK8), scale=1.0, relu=False, rngs=rngs), cin)
    convolve("conv2d_7b", 1536, 1)
    return Stages(stages)


PARTS = {
    "conv2d_1a": "conv2d_1a",
    "conv2d_2a": "conv2d_2a",
    "conv2d_2b": "conv2d_2b",
    "conv2d_3b": "conv2d_3b",
    "conv2d_4a": "conv2d_4a",
    "mixed_5b": "mixed_5b",
    r"repeat\.(\d+)": r"block35.\1",
    "mixed_6a": "mixed_6a",
    r"repeat_1\.(\d+)": r"block17.\1",
    "mixed_7a": "mixed_7a",
    r"repeat_2\.(\d)": r"block8.\1",
    "block8": "block8.9",
    "conv2d_7b": "conv2d_7b",
}
"""Name of a part in a PyTorch checkpoint, as a regular expression -> its stage."""


def rules(parts: dict[str, str] = PARTS) -> tuple[key_map.Rule, ...]:
    """Return conversion rules from the parameter names of the PyTorch ports (``repeat_1.0.branch1.2.conv.weight``).

    Args:
        parts: in the form of `PARTS`.
    """
    rules: list[key_map.Rule] = []
    for source, stage in parts.items():
        n = 1 + source.count("(")  # number of the first group after those of the part
        # A branch with one convolution has no second index.
        places = {
            rf"{source}": f"stage.{stage}",
            rf"{source}\.branch(\d)": rf"stage.{stage}.branch.\{n}.0",
            rf"{source}\.branch(\d)\.(\d)": rf"stage.{stage}.branch.\{n}.\{n + 1}",
        }
        for theirs, ours in places.items():
            rules += key_map.conv(rf"{theirs}\.conv", f"{ours}.conv")
            rules += key_map.batch_norm(rf"{theirs}\.bn", f"{ours}.bn")
        rules += key_map.conv(rf"{source}\.conv2d", f"stage.{stage}.project")
        rules.append((rf"{source}\.conv2d\.bias", f"stage.{stage}.project.bias", key_map.same))
    return tuple(rules)


def _classes(array: np.ndarray) -> np.ndarray:
    return array[-1000:]  # older files have a class "background" before the 1000 classes


INCEPTION_RESNET_V2 = BackboneSpec(
    build=inception_resnet_v2,
    width=32,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    taps=("block17", "conv2d_7b"),
    classes=1000,
    rules=rules(),
    classifier_rules=(
        (r"(last_linear|classif)\.weight", "head.kernel", lambda array: _classes(array).T),
        (r"(last_linear|classif)\.bias", "head.bias", _classes),
    ),
    adapt=from_keras,
)
