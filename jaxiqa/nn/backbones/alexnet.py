"""AlexNet in its one-tower form, as in torchvision.

"One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997.

Stages: ``relu1``, ``pool1``, ``relu2``, ``pool2``, ``relu3``, ``relu4``, ``relu5``, ``pool5``; ``reluI`` is a
convolution and its ReLU. The smallest image is 31×31 for an output of ``relu5``, and 63×63 for one of ``pool5``.

**Differs from the paper** as torchvision does: no local response normalisation.
"""

from functools import partial

from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.backbones.resnet import MEAN, STD
from jaxiqa.nn.backbones.vgg import ConvReLU
from jaxiqa.nn.blur import blurred
from jaxiqa.nn.heads import Perceptron
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

# multiple of the first stage's channels, kernel side, stride, padding, whether pooling follows
LAYOUT = ((1, 11, 4, 2, True), (3, 5, 1, 2, True), (6, 3, 1, 1, False), (4, 3, 1, 1, False), (4, 3, 1, 1, True))


class MaxPool(nnx.Module):
    """Maximum of 3×3 windows, stride 2, no padding."""

    blur = 1

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return max_pool(blurred(x, self.blur), 3, 2)


def alexnet(*, width: int = 64, rngs: nnx.Rngs) -> Stages:
    """Build AlexNet.

    Args:
        width: channels of ``relu1``; the others have 3, 6, 4 and 4 times as many.
        rngs: random numbers for the weights: He's normal scale by fan-in.
    """
    stages: dict[str, tuple[nnx.Module, int]] = {}
    cin = 3
    for i, (multiple, size, stride, padding, pool) in enumerate(LAYOUT, start=1):
        cout = multiple * width
        stages[f"relu{i}"] = (ConvReLU(cin, cout, size, stride=stride, padding=padding, rngs=rngs), cout)
        if pool:
            stages[f"pool{i}"] = (MaxPool(), cout)
        cin = cout
    return Stages(stages)


ALEXNET = BackboneSpec(
    build=alexnet,
    width=64,
    mean=MEAN,
    std=STD,
    taps=("relu4", "relu5"),
    classes=1000,
    rules=tuple(
        rule
        for i, index in enumerate((0, 3, 6, 8, 10), start=1)
        for rule in key_map.conv(rf"features\.{index}", f"stage.relu{i}.conv", bias=True)
    ),
    classifier=partial(Perceptron, side=6),
    classifier_rules=tuple(
        rule
        for i, index in enumerate((1, 4, 6), start=1)
        for rule in key_map.linear(rf"classifier\.{index}", f"head.linear{i}")
    ),
)
