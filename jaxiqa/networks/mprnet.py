"""MPRNet: three stages, on quarters, halves and the whole of an image; each reads the stage before.

"Multi-Stage Progressive Image Restoration", arXiv:2102.02808.
"""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import Images
from jaxiqa.networks import mprnet_rules
from jaxiqa.networks.distance import NetworkSpec
from jaxiqa.networks.network import Network
from jaxiqa.networks.prelu import prelu
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained.files import WeightsUrl

Map = Float[Array, "_ _ _ _"]
Slope = Float[Array, "1"]
Levels = list[Map]


class AttentionBlock(nnx.Module):
    """``x + y · sigmoid(W₂ relu(W₁ mean(y)))``, y = conv(prelu(conv(x))): the paper's channel attention block."""

    def __init__(self, width: int, reduction: int, *, rngs: nnx.Rngs):
        self.conv = nnx.List(conv(width, width, 3, rngs=rngs) for _ in range(2))
        self.squeeze = conv(width, width // reduction, 1, rngs=rngs)
        self.excite = conv(width // reduction, width, 1, rngs=rngs)

    def __call__(self, x: Map, slope: Slope) -> Map:
        first, second = self.conv
        y = second(prelu(first(x), slope))
        mean = jnp.mean(y, (1, 2), keepdims=True)
        return x + y * jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(mean))))


class Chain(nnx.Module):
    """Consecutive attention blocks."""

    def __init__(self, width: int, reduction: int, depth: int, *, rngs: nnx.Rngs):
        self.block = nnx.List(AttentionBlock(width, reduction, rngs=rngs) for _ in range(depth))

    def __call__(self, x: Map, slope: Slope) -> Map:
        for block in self.block:
            x = block(x, slope)
        return x


class Shallow(nnx.Module):
    """A convolution and an attention block: the first features of an image."""

    def __init__(self, width: int, reduction: int, *, rngs: nnx.Rngs):
        self.conv = conv(3, width, 3, rngs=rngs)
        self.block = AttentionBlock(width, reduction, rngs=rngs)

    def __call__(self, images: Map, slope: Slope) -> Map:
        return self.block(self.conv(images), slope)


class Encoder(nnx.Module):
    """Three levels, each with half the sides and more channels; ``fused`` adds those of the stage before."""

    of_encoder: nnx.List[Any]
    of_decoder: nnx.List[Any]

    def __init__(self, widths: tuple[int, int, int], reduction: int, *, fused: bool, rngs: nnx.Rngs):
        self.level = nnx.List(Chain(width, reduction, 2, rngs=rngs) for width in widths)
        self.down = nnx.List(conv(cin, cout, 1, rngs=rngs) for cin, cout in pairwise(widths))
        for name in ("of_encoder", "of_decoder") if fused else ():
            setattr(self, name, nnx.List(conv(width, width, 1, rngs=rngs) for width in widths))

    def __call__(self, x: Map, slope: Slope, before: tuple[Levels, Levels] | None = None) -> Levels:
        levels: Levels = []
        for i, level in enumerate(self.level):
            x = level(x if i == 0 else self.down[i - 1](_halve(x)), slope)
            if before is not None:
                encoded, decoded = before
                x = x + self.of_encoder[i](encoded[i]) + self.of_decoder[i](decoded[i])
            levels.append(x)
        return levels


class Decoder(nnx.Module):
    """The decoder of the three levels; each encoder level is added through an attention block."""

    def __init__(self, widths: tuple[int, int, int], reduction: int, *, rngs: nnx.Rngs):
        self.level = nnx.List(Chain(width, reduction, 2, rngs=rngs) for width in widths)
        self.skip = nnx.List(AttentionBlock(width, reduction, rngs=rngs) for width in widths[:2])
        self.up = nnx.List(conv(cin, cout, 1, rngs=rngs) for cout, cin in pairwise(widths))

    def __call__(self, encoded: Levels, slope: Slope) -> Levels:
        x = self.level[2](encoded[2], slope)
        levels = [x]
        for i in (1, 0):
            x = self.level[i](self.up[i](_double(x)) + self.skip[i](encoded[i], slope), slope)
            levels.insert(0, x)
        return levels


class Supervised(nnx.Module):
    """Return ``x + W₁ x · sigmoid(W₃ image)`` and the stage's output image ``image = W₂ x + images``."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.features = conv(width, width, 1, rngs=rngs)
        self.restored = conv(width, 3, 1, rngs=rngs)
        self.mask = conv(3, width, 1, rngs=rngs)

    def __call__(self, x: Map, images: Map) -> tuple[Map, Map]:
        image = self.restored(x) + images
        return x + self.features(x) * jax.nn.sigmoid(self.mask(image)), image


class Original(nnx.Module):
    """The last stage's three chains at full resolution; they read all levels of the stage before."""

    def __init__(self, widths: tuple[int, int, int], extra: int, reduction: int, depth: int, *, rngs: nnx.Rngs):
        first, second, third = widths
        width = first + extra
        self.chain = nnx.List(Chain(width, reduction, depth, rngs=rngs) for _ in range(3))
        self.conv = nnx.List(conv(width, width, 3, rngs=rngs) for _ in range(3))
        for name in ("of_encoder", "of_decoder"):
            setattr(self, name, nnx.List(conv(first, width, 1, rngs=rngs) for _ in range(3)))
            steps = ((second, first),), ((third, second), (second, first))
            ups = nnx.List(nnx.List(conv(cin, cout, 1, rngs=rngs) for cin, cout in step) for step in steps)
            setattr(self, f"up_{name}", ups)

    def __call__(self, x: Map, slope: Slope, encoded: Levels, decoded: Levels) -> Map:
        for i in range(3):
            x = x + self.conv[i](self.chain[i](x, slope))
            for name, levels in (("of_encoder", encoded), ("of_decoder", decoded)):
                y = levels[i]
                for up in getattr(self, f"up_{name}")[i - 1] if i else ():
                    y = up(_double(y))
                x = x + getattr(self, name)[i](y)
        return x


class MPRNet(nnx.Module):
    """``b h w 3 -> b h w 3``, a restored image, not clipped.

    Stage 1 processes the four quarters of the image, stage 2 its upper and lower half, both by a U-Net of three levels,
    and stage 3 the whole image at full resolution. Every stage reads the features of the stage before, masked by the
    output image of that stage. There are no biases, and all activations share one learned slope.

    Args:
        width: channels of the U-Nets' first level.
        growth: additional channels of each further level.
        extra: additional channels of the last stage.
        depth: attention blocks in each of its three chains.
        reduction: ratio of channels to those of the attention's bottleneck.
        rngs: random numbers for the kernels.

    Raises:
        ValueError: a side is not a multiple of 8.

    >>> net = nnx.eval_shape(lambda: MPRNet(rngs=nnx.Rngs(0)))
    >>> sum(variable.size for variable in jax.tree.leaves(nnx.state(net)))
    15741025
    """

    def __init__(
        self,
        *,
        width: int = 80,
        growth: int = 48,
        extra: int = 32,
        depth: int = 8,
        reduction: int = 4,
        rngs: nnx.Rngs,
    ):
        widths = (width, width + growth, width + 2 * growth)
        self.slope = nnx.Param(jnp.full(1, 0.25))
        self.shallow = nnx.List(Shallow(width, reduction, rngs=rngs) for _ in range(3))
        self.encoder = nnx.List(Encoder(widths, reduction, fused=fused, rngs=rngs) for fused in (False, True))
        self.decoder = nnx.List(Decoder(widths, reduction, rngs=rngs) for _ in range(2))
        self.supervised = nnx.List(Supervised(width, rngs=rngs) for _ in range(2))
        self.join = nnx.List(conv(2 * width, cout, 3, rngs=rngs) for cout in (width, width + extra))
        self.original = Original(widths, extra, reduction, depth, rngs=rngs)
        self.tail = conv(width + extra, 3, 3, rngs=rngs)

    def __call__(self, images: Images) -> Images:
        return self.run(images)[-1]

    def run(self, images: Images) -> tuple[Images, Images, Images]:
        """Return the output images of the three stages."""
        if any(side % 8 for side in images.shape[1:3]):
            raise ValueError(f"images are {images.shape[1]}x{images.shape[2]}; both sides must be multiples of 8")
        slope = self.slope[...]
        halves = _halves(images, 1)
        quarters = _halves(halves, 2)
        encoded = [_whole(level, 2) for level in self.encoder[0](self.shallow[0](quarters, slope), slope)]
        decoded = self.decoder[0](encoded, slope)
        features, first = self.supervised[0](decoded[0], halves)

        x = self.join[0](jnp.concatenate([self.shallow[1](halves, slope), features], -1))
        encoded = [_whole(level, 1) for level in self.encoder[1](x, slope, (encoded, decoded))]
        decoded = self.decoder[1](encoded, slope)
        features, second = self.supervised[1](decoded[0], images)

        x = self.join[1](jnp.concatenate([self.shallow[2](images, slope), features], -1))
        third = self.tail(self.original(x, slope, encoded, decoded)) + images
        return _whole(first, 1), second, third


def _halves(x: Map, axis: int) -> Map:
    """Reorder ``b h w c`` -> ``2b …``: all first halves along ``axis``, then all second halves."""
    return jnp.concatenate(jnp.split(x, 2, axis))


def _whole(x: Map, axis: int) -> Map:
    """Invert `_halves`."""
    return jnp.concatenate(jnp.split(x, 2), axis)


def _halve(x: Map) -> Map:
    """Return means of 2×2 pixels, which equals bilinear resizing to half the size."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def _double(x: Map) -> Map:
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


SPEC = NetworkSpec(
    build=MPRNet,
    rules=mprnet_rules.rules(),
    title="MPRNet, for denoising",
    paper="arXiv:2102.02808",
    licence="academic, non-commercial",
    weights={"denoising": WeightsUrl(url=None, page="https://github.com/swz30/MPRNet")},
    wrap=Network,
    options=mprnet_rules.options,
)
