"""LPIPS 0.1: a learned distance of deep features of AlexNet, VGG-16 or SqueezeNet 1.1.

"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv:1801.03924.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.types import Images, Scores
from jaxiqa.networks.distance import NetworkSpec, vector
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.nn.stages import normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

TAPS = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5"),
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    "squeezenet1_1": ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9"),
}
MINIMUM = {"alexnet": 31, "vgg16": 16, "squeezenet1_1": 17}
"""Shortest image side at which the last tap has a pixel."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nnx.Module):
    """Learned perceptual image patch similarity, 0 or larger; use it as a `Distance`.

        d(x, y) = Σ_l mean over pixels of Σ_c w_lc · (x̂_lc − ŷ_lc)²,  x̂_l = x_l / (‖x_l‖ + 1e-10)

    x_l is the map at tap l (`TAPS`) of the backbone, ‖x_l‖ its norm over the channels of a pixel, w ≥ 0. The input of
    the backbone is (2 · pixels − 1 − shift) / scale, published numbers per colour. d is symmetric.

    Args:
        backbone: a key of `TAPS`.
        width: channels of its first stage; None: as published.
        rngs: random numbers for the backbone; w starts at 1, the distance without learning.

    >>> model = nnx.eval_shape(lambda: LPIPS("squeezenet1_1", rngs=nnx.Rngs(0)))
    >>> {tap: weight.shape for tap, weight in model.weight.items()}["fire9"], model.minimum
    ((512,), 17)

    Weights: w under the BSD 2-clause licence; the backbones are torchvision's for ImageNet.

    **Differs from the paper's code** if a pixel's features are all zero: the gradient there is 0 instead of NaN.
    """

    def __init__(self, backbone: str, *, width: int | None = None, rngs: nnx.Rngs):
        check_choice("backbone", backbone, TAPS)
        spec = BACKBONES[backbone]
        self.minimum, self.taps = MINIMUM[backbone], TAPS[backbone]
        self.backbone = spec.build(width=spec.width if width is None else width, rngs=rngs)
        self.weight = nnx.Dict({tap: nnx.Param(jnp.ones(self.backbone.channels(tap))) for tap in self.taps})

    def features(self, images: Images) -> dict[str, Float[Array, "b _ _ _"]]:
        """Return the maps x̂_l by tap."""
        _, maps = self.backbone.run(normalise(2 * images - 1, SHIFT, SCALE), taps=self.taps)
        return {tap: _unit(x) for tap, x in maps.items()}

    def compare(self, x: dict[str, Float[Array, "b _ _ _"]], y: dict[str, Float[Array, "b _ _ _"]]) -> Scores:
        """Return d from the `features` of both images."""
        levels = [jnp.mean(jnp.square(x[tap] - y[tap]), (1, 2)) @ self.weight[tap][...] for tap in self.taps]
        return sum(levels[1:], start=levels[0])


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    # The root of zero is avoided: its derivative is infinite.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return x / (norm + 1e-10)


def _record(backbone: str, file: str, size: int) -> NetworkSpec:
    spec = BACKBONES[backbone]
    heads = ((rf"lin{i}\.model\.1\.weight", f"weight.{tap}", vector) for i, tap in enumerate(TAPS[backbone]))
    page = f"https://github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1/{file})"
    return NetworkSpec(
        build=partial(LPIPS, backbone),
        rules=(*key_map.under("backbone", spec.rules), *key_map.without(spec.classifier_rules), *heads),
        title=f"LPIPS 0.1 ({backbone})",
        paper="arXiv:1801.03924",
        licence="BSD-2-Clause",
        weights={"v0.1": WeightsUrl(url=None, page=page, size=size)},
    )


LPIPS_ALEX_SPEC = _record("alexnet", "alex.pth", 6_009)
LPIPS_VGG_SPEC = _record("vgg16", "vgg.pth", 7_289)
LPIPS_SQUEEZE_SPEC = _record("squeezenet1_1", "squeeze.pth", 10_811)
