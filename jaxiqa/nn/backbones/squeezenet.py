"""SqueezeNet 1.1, its authors' later version, as in torchvision.

"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", arXiv:1602.07360.

Stages: ``relu1``, ``pool1``, ``fire2``, ``fire3``, ``pool3``, ``fire4``, ``fire5``, ``pool5``, ``fire6`` … ``fire9``.
The smallest image with an output of the last stage is 17×17.

**Differs from the paper** as version 1.1 does: the first convolution is 3×3 with 64 channels, and pooling is earlier.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.backbones.resnet import MEAN, STD
from jaxiqa.nn.backbones.vgg import ConvReLU
from jaxiqa.nn.blur import blurred
from jaxiqa.nn.heads import PooledConv
from jaxiqa.nn.kernels.max_pool import max_pool
from jaxiqa.nn.stages import BackboneSpec, Stages
from jaxiqa.pretrained import key_map

# fire2 … fire9: squeezed channels, in quarters of the first stage's channels; the output has 8 times as many
SQUEEZED = (1, 1, 2, 2, 3, 3, 4, 4)
POOLED = ("relu1", "fire3", "fire5")


class Fire(nnx.Module):
    """Compute ``[relu(expand1x1(s)), relu(expand3x3(s))]``, ``s = relu(squeeze(x))``; each gives half the output."""

    def __init__(self, cin: int, squeezed: int, cout: int, *, rngs: nnx.Rngs):
        self.squeeze = ConvReLU(cin, squeezed, 1, rngs=rngs)
        self.expand1x1 = ConvReLU(squeezed, cout // 2, 1, rngs=rngs)
        self.expand3x3 = ConvReLU(squeezed, cout // 2, 3, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        x = self.squeeze(x)
        return jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1)


class MaxPool(nnx.Module):
    """Maximum of 3×3 windows, stride 2; the last window may cross the edge by one pixel ("ceil mode")."""

    blur = 1

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        rows, columns = ((0, 1 - side % 2) for side in x.shape[1:3])
        return max_pool(blurred(x, self.blur), 3, 2, (rows, columns))


def squeezenet1_1(*, width: int = 64, rngs: nnx.Rngs) -> Stages:
    """Build SqueezeNet 1.1.

    Args:
        width: channels of ``relu1``, a multiple of 4; the last stage has 8 times as many.
        rngs: random numbers for the weights: He's normal scale by fan-in.
    """
    stages: dict[str, tuple[nnx.Module, int]] = {}
    layers: dict[str, tuple[nnx.Module, int]] = {
        "relu1": (ConvReLU(3, width, 3, stride=2, padding=0, rngs=rngs), width)
    }
    cin = width
    for i, multiple in enumerate(SQUEEZED, start=2):
        cout = 2 * width * multiple
        layers[f"fire{i}"] = (Fire(cin, width // 4 * multiple, cout, rngs=rngs), cout)
        cin = cout
    for name, (module, features) in layers.items():
        stages[name] = (module, features)
        if name in POOLED:
            stages[f"pool{name[-1]}"] = (MaxPool(), features)
    return Stages(stages)


SQUEEZENET1_1 = BackboneSpec(
    build=squeezenet1_1,
    width=64,
    mean=MEAN,
    std=STD,
    taps=("fire5", "fire9"),
    classes=1000,
    rules=(
        *key_map.conv(r"features\.0", "stage.relu1.conv", bias=True),
        *(
            rule
            for i, index in enumerate((3, 4, 6, 7, 9, 10, 11, 12), start=2)
            for rule in key_map.conv(
                rf"features\.{index}\.(squeeze|expand1x1|expand3x3)", rf"stage.fire{i}.\1.conv", bias=True
            )
        ),
    ),
    classifier=PooledConv,
    classifier_rules=key_map.conv(r"classifier\.1", "head.conv", bias=True),
)
