"""VGG-16 (configuration D) without batch norm, as in torchvision.

"Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556.

Stages: ``relu1_1``, ``relu1_2``, ``pool1``, ``relu2_1`` … ``relu5_3``, ``pool5``; ``reluI_J`` is a convolution and its
ReLU. These are the usual names of its features.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones.resnet import MEAN, STD
from jaxiqa.nn.blur import blurred
from jaxiqa.nn.conv import conv
from jaxiqa.nn.heads import Perceptron
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

DEPTHS = (2, 2, 3, 3, 3)
GROWTH = (1, 2, 4, 8, 8)


class ConvReLU(nnx.Module):
    """Compute ``relu(conv(x))``, the convolution with a bias; arguments as of `jaxiqa.nn.conv.conv`."""

    activation = "relu"

    def __init__(self, cin: int, cout: int, size: int, **options: Any):
        self.conv = conv(cin, cout, size, bias=True, **options)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return activate(self.activation, self.conv(x))


class MaxPool(nnx.Module):
    """Maximum of 2×2 windows, stride 2; the last row and column of an odd map are ignored."""

    blur = 1

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return max_pool(blurred(x, self.blur), 2, 2)


def vgg16(*, width: int = 64, pool: Callable[[], nnx.Module] = MaxPool, rngs: nnx.Rngs) -> Stages:
    """Build VGG-16.

    Args:
        width: channels of the first block; the others have 2, 4, 8 and 8 times as many.
        pool: builds the pooling after each block.
        rngs: random numbers for the weights: He's normal scale by fan-in.
    """
    stages: dict[str, tuple[nnx.Module, int]] = {}
    cin = 3
    for block, (depth, growth) in enumerate(zip(DEPTHS, GROWTH, strict=True), start=1):
        cout = width * growth
        for i in range(1, depth + 1):
            stages[f"relu{block}_{i}"] = (ConvReLU(cin, cout, 3, rngs=rngs), cout)
            cin = cout
        stages[f"pool{block}"] = (pool(), cout)
    return Stages(stages)


def _rules() -> tuple[key_map.Rule, ...]:
    """Return conversion rules; torchvision numbers convolutions, ReLUs and poolings together."""
    rules: list[key_map.Rule] = []
    index = 0
    for block, depth in enumerate(DEPTHS, start=1):
        for i in range(1, depth + 1):
            rules += key_map.conv(rf"features\.{index}", f"stage.relu{block}_{i}.conv", bias=True)
            index += 2
        index += 1
    return tuple(rules)


VGG16 = BackboneSpec(
    build=vgg16,
    width=64,
    mean=MEAN,
    std=STD,
    taps=("relu4_3", "relu5_3"),
    classes=1000,
    rules=_rules(),
    classifier=partial(Perceptron, side=7),
    classifier_rules=tuple(
        rule for i in range(3) for rule in key_map.linear(rf"classifier\.{3 * i}", f"head.linear{i + 1}")
    ),
)
