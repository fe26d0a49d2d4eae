"""The colourisation network of cAdv ("SIGGRAPH 17"): from lightness and colour hints to colours.

"Real-Time User-Guided Image Colorization with Learned Deep Priors", arXiv:1705.02999.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.networks.upsampling import UpConv, up_keys
from jaxiqa.nn.conv import HE
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

CLASSES = 529
"""Cells of a 23×23 grid over a and b, each 10 units wide."""

Plane = Float[Array, "b h w 1"]
Hints = Float[Array, "b h w 2"]

DOWN = {1: (1, 2, 1), 2: (2, 2, 1), 3: (4, 3, 1), 4: (8, 3, 1), 5: (8, 3, 2), 6: (8, 3, 2), 7: (8, 3, 1)}
"""Block -> multiple of the network's width, convolutions, dilation. Blocks 2, 3, 4 halve their input's sides."""


class Block(nnx.Module):
    """3×3 convolutions, each with a ReLU, then a batch norm in evaluation mode."""

    def __init__(self, cin: int, cout: int, depth: int, *, dilation: int = 1, rngs: nnx.Rngs):
        conv = partial(_conv, dilation=dilation, rngs=rngs)
        self.conv = nnx.List(conv(cin if i == 0 else cout, cout) for i in range(depth))
        self.norm = nnx.BatchNorm(cout, use_running_average=True, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w cin"]) -> Float[Array, "b h w cout"]:
        for conv in self.conv:
            x = jax.nn.relu(conv(x))
        return self.norm(x)


class Colorization(nnx.Module):
    """Real-time user-guided colourisation: ``(L, hints, mask) -> a and b``, ``b h w 2`` in (−1, 1).

    L is (lightness − 50) / 100; hints and the result are a and b divided by 110; the mask is 0.5 at a hint and −0.5
    elsewhere. Sides that are not multiples of 8 are padded at the bottom and right with their last row and column; the
    result is cropped.

    Args:
        width: channels of the first block; 64 as published.
        rngs: random numbers for the weights.

    >>> net = nnx.eval_shape(lambda: Colorization(rngs=nnx.Rngs(0)))
    >>> maps = [jax.ShapeDtypeStruct((1, 9, 14, c), "float32") for c in (1, 2, 1)]
    >>> nnx.eval_shape(lambda net, *maps: net(*maps), net, *maps).shape
    (1, 9, 14, 2)
    """

    def __init__(self, *, width: int = 64, rngs: nnx.Rngs):
        blocks, cin = {}, 4
        for number, (growth, depth, dilation) in DOWN.items():
            blocks[f"block{number}"] = Block(cin, growth * width, depth, dilation=dilation, rngs=rngs)
            cin = growth * width
        self.down = nnx.Dict(blocks)
        self.up8, self.up9, self.up10 = (
            UpConv(cin * width, cout * width, rngs=rngs) for cin, cout in ((8, 4), (4, 2), (2, 2))
        )
        self.skip8, self.skip9, self.skip10 = (
            _conv(cin * width, cout * width, rngs=rngs) for cin, cout in ((4, 4), (2, 2), (1, 2))
        )
        self.block8 = Block(4 * width, 4 * width, 2, rngs=rngs)
        self.block9 = Block(2 * width, 2 * width, 1, rngs=rngs)
        self.conv10 = _conv(2 * width, 2 * width, rngs=rngs)
        self.classes = nnx.Linear(4 * width, CLASSES, rngs=rngs)
        self.colors = nnx.Linear(2 * width, 2, rngs=rngs)

    def __call__(self, lightness: Plane, hints: Hints, mask: Plane) -> Hints:
        _, ab = self.run(lightness, hints, mask)
        return ab

    def run(self, lightness: Plane, hints: Hints, mask: Plane) -> tuple[Float[Array, "b h4 w4 classes"], Hints]:
        """Return logits of the colour classes at a quarter of the (padded) size, and a and b."""
        height, width = lightness.shape[1:3]
        x = jnp.concatenate([lightness, hints, mask], -1)
        x = jnp.pad(x, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
        features = []
        for number in DOWN:
            x = self.down[f"block{number}"](x[:, ::2, ::2] if number in (2, 3, 4) else x)
            features.append(x)
        x = self.block8(jax.nn.relu(self.up8(x) + self.skip8(features[2])))
        logits = self.classes(x)
        x = self.block9(jax.nn.relu(self.up9(x) + self.skip9(features[1])))
        x = self.conv10(jax.nn.relu(self.up10(x) + self.skip10(features[0])))
        return logits, jnp.tanh(self.colors(jax.nn.leaky_relu(x, 0.2)))[:, :height, :width]


def _conv(cin: int, cout: int, *, dilation: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    pads = [(dilation, dilation)] * 2
    return nnx.Conv(cin, cout, (3, 3), padding=pads, kernel_dilation=dilation, kernel_init=HE, rngs=rngs)


def _pointwise(source: str, target: str) -> tuple[key_map.Rule, ...]:
    """Return rules that read a 1×1 convolution as a linear map."""

    def layout(array: np.ndarray) -> np.ndarray:
        return key_map.flat_kernel(key_map.conv_kernel(array))

    return ((rf"{source}\.weight", f"{target}.kernel", layout), (rf"{source}\.bias", f"{target}.bias", key_map.same))


def _rules() -> tuple[key_map.Rule, ...]:
    """Return rules; the published names number convolutions, ReLUs and norms of a block together."""
    rules: list[key_map.Rule] = []
    for number, (_, depth, _) in DOWN.items():
        for i in range(depth):
            rules += key_map.conv(rf"model{number}\.{2 * i}", f"down.block{number}.conv.{i}", bias=True)
        rules += key_map.batch_norm(rf"model{number}\.{2 * depth}", f"down.block{number}.norm")
    for number, depth in ((8, 2), (9, 1)):  # the ReLU before their first convolution has a number too
        for i in range(depth):
            rules += key_map.conv(rf"model{number}\.{2 * i + 1}", f"block{number}.conv.{i}", bias=True)
        rules += key_map.batch_norm(rf"model{number}\.{2 * depth + 1}", f"block{number}.norm")
    rules += key_map.conv(r"model10\.1", "conv10", bias=True)
    for number, skip in ((8, 3), (9, 2), (10, 1)):
        rules += up_keys(rf"model{number}up\.0", f"up{number}")
        rules += key_map.conv(rf"model{skip}short{number}\.0", f"skip{number}", bias=True)
    return (*rules, *_pointwise(r"model_class\.0", "classes"), *_pointwise(r"model_out\.0", "colors"))


SPEC = NetworkSpec(
    build=Colorization,
    rules=_rules(),
    title="Real-time user-guided colourisation",
    paper="arXiv:1705.02999",
    licence="see its page",
    weights={"published": WeightsUrl(url=None, page="https://github.com/richzhang/colorization-pytorch")},
    wrap=Network,
)
