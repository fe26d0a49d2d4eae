"""ResNet-18, -50, -101 and ResNeXt-101 32x8d, as in torchvision.

"Deep Residual Learning for Image Recognition", arXiv:1512.03385; "Aggregated Residual Transformations for Deep Neural
Networks", arXiv:1611.05431.

Stages: ``conv1`` (with its batch norm and ReLU), ``maxpool``, ``layer1.0`` … ``layer4.2``.

**Differs from the paper** as torchvision does ("v1.5"): a bottleneck's stride is in its 3×3 convolution.
"""

from functools import partial

from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.activations import activate
from jaxiqa.nn.blur import blurred
from jaxiqa.nn.conv import conv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)


class ConvNorm(nnx.Module):
    """A convolution and its batch norm: ``bn(conv(x))``."""

    def __init__(self, cin: int, cout: int, size: int, *, stride: int, rngs: nnx.Rngs):
        self.conv = conv(cin, cout, size, stride=stride, rngs=rngs)
        self.bn = _norm(cout, rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return self.bn(self.conv(x))


class Stem(ConvNorm):
    """Compute ``relu(bn(conv(x)))``."""

    activation = "relu"

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        return activate(self.activation, super().__call__(x))


class MaxPool(nnx.Module):
    """Maximum of 3×3 windows, stride 2."""

    blur = 1

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return max_pool(blurred(x, self.blur), 3, 2, ((1, 1), (1, 1)))


class BasicBlock(nnx.Module):
    """Compute ``relu(conv3x3(relu(conv3x3(x))) + shortcut(x))``, batch norm after each convolution."""

    activation = "relu"

    def __init__(self, cin: int, cout: int, inner: int, *, stride: int, groups: int, rngs: nnx.Rngs):
        self.conv1 = conv(cin, inner, 3, stride=stride, groups=groups, rngs=rngs)
        self.bn1 = _norm(inner, rngs)
        self.conv2 = conv(inner, cout, 3, groups=groups, rngs=rngs)
        self.bn2 = _norm(cout, rngs)
        self.shortcut = ConvNorm(cin, cout, 1, stride=stride, rngs=rngs) if stride > 1 or cin != cout else None

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        y = activate(self.activation, self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return activate(self.activation, y + (x if self.shortcut is None else self.shortcut(x)))


class BottleneckBlock(nnx.Module):
    """Compute ``relu(conv1x1(relu(conv3x3(relu(conv1x1(x))))) + shortcut(x))``, batch norm after each convolution."""

    activation = "relu"

    def __init__(self, cin: int, cout: int, inner: int, *, stride: int, groups: int, rngs: nnx.Rngs):
        self.conv1 = conv(cin, inner, 1, rngs=rngs)
        self.bn1 = _norm(inner, rngs)
        self.conv2 = conv(inner, inner, 3, stride=stride, groups=groups, rngs=rngs)
        self.bn2 = _norm(inner, rngs)
        self.conv3 = conv(inner, cout, 1, rngs=rngs)
        self.bn3 = _norm(cout, rngs)
        self.shortcut = ConvNorm(cin, cout, 1, stride=stride, rngs=rngs) if stride > 1 or cin != cout else None

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h2 w2 cout"]:
        y = activate(self.activation, self.bn1(self.conv1(x)))
        y = activate(self.activation, self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return activate(self.activation, y + (x if self.shortcut is None else self.shortcut(x)))


def resnet(
    depths: tuple[int, int, int, int],
    *,
    block: type[BasicBlock] | type[BottleneckBlock] = BottleneckBlock,
    groups: int = 1,
    base: int = 64,
    width: int = 64,
    rngs: nnx.Rngs,
) -> Stages:
    """Build a residual network.

    Args:
        depths: blocks in each of the four layers.
        block: the residual block.
        groups: groups of its 3×3 convolutions.
        base: inner channels per group in ``layer1`` of a 64-channel network (8 in "32x8d").
        width: channels of ``conv1``; layer i has ``2^(i-1) · width`` channels, four times that after a bottleneck.
        rngs: random numbers for the weights: He's normal scale by fan-in.

    Returns:
        The stages; batch norm uses running statistics.
    """
    expansion = 4 if block is BottleneckBlock else 1
    stages: dict[str, tuple[nnx.Module, int]] = {
        "conv1": (Stem(3, width, 7, stride=2, rngs=rngs), width),
        "maxpool": (MaxPool(), width),
    }
    cin = width
    for layer, depth in enumerate(depths):
        planes = width * 2**layer
        inner = planes * base // 64 * groups
        for i in range(depth):
            stride = 2 if layer > 0 and i == 0 else 1
            module = block(cin, planes * expansion, inner, stride=stride, groups=groups, rngs=rngs)
            cin = planes * expansion
            stages[f"layer{layer + 1}.{i}"] = (module, cin)
    return Stages(stages)


NAMES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def rules(names: tuple[str, ...] = NAMES) -> tuple[key_map.Rule, ...]:
    """Return conversion rules from torchvision's parameter names.

    Args:
        names: names of the six parts in the checkpoint, as regular expressions.
    """
    conv1, bn1, *layers = names
    rules = [*key_map.conv(conv1, "stage.conv1.conv"), *key_map.batch_norm(bn1, "stage.conv1.bn")]
    for i, layer in enumerate(layers, start=1):
        source, target = rf"{layer}\.(\d+)", rf"stage.layer{i}.\1"
        rules += key_map.conv(rf"{source}\.conv(\d)", rf"{target}.conv\2")
        rules += key_map.batch_norm(rf"{source}\.bn(\d)", rf"{target}.bn\2")
        rules += key_map.conv(rf"{source}\.downsample\.0", f"{target}.shortcut.conv")
        rules += key_map.batch_norm(rf"{source}\.downsample\.1", f"{target}.shortcut.bn")
    return tuple(rules)


_backbone = partial(
    BackboneSpec,
    width=64,
    mean=MEAN,
    std=STD,
    taps=("layer3", "layer4"),
    levels=("layer1", "layer2", "layer3", "layer4"),
    classes=1000,
    rules=rules(),
    classifier_rules=key_map.linear("fc", "head"),
)
RESNET18 = _backbone(build=partial(resnet, (2, 2, 2, 2), block=BasicBlock))
RESNET50 = _backbone(build=partial(resnet, (3, 4, 6, 3)))
RESNET101 = _backbone(build=partial(resnet, (3, 4, 23, 3)))
RESNEXT101_32X8D = _backbone(build=partial(resnet, (3, 4, 23, 3), groups=32, base=8))
