"""DISTS: a distance of the structure and texture of VGG-16 features.

"Image Quality Assessment: Unifying Structure and Texture Similarity", arXiv:2004.07728.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.types import Images, Scores
from jaxiqa.networks.distance import NetworkSpec, vector
from jaxiqa.nn.backbones.vgg import VGG16, vgg16
from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.stages import normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
C1 = C2 = 1e-6


class L2Pool(nnx.Module):
    """Compute ``√(g ∗ x² + 1e-12)`` at every second pixel; g = (1 2 1)ᵀ(1 2 1)/16, zero padding."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        g = jnp.outer(jnp.array([1, 2, 1], x.dtype), jnp.array([1, 2, 1], x.dtype))[:, :, None] / 16
        kernel = jnp.broadcast_to(g, (3, 3, x.shape[-1]))
        return jnp.sqrt(depthwise_conv(x * x, kernel, stride=(2, 2), padding=((1, 1), (1, 1))) + 1e-12)


class DISTS(nnx.Module):
    """Deep image structure and texture similarity, in [0, 2); use it as a `Distance`.

        D(x, y) = Σ_k [α_k · (μx − μy)² / (μx² + μy² + c₁) + β_k · var(x − y) / (var x + var y + c₂)] / Σ_k (α_k + β_k)

    over the channels k of six maps: the image itself, and ``relu1_2``, ``relu2_2``, ``relu3_3``, ``relu4_3`` and
    ``relu5_3`` of a VGG-16 with `L2Pool` instead of max pooling. Mean μ and variance are over a map's pixels,
    c₁ = c₂ = 1e-6, and α, β ≥ 0. D is symmetric.

    It is the paper's 1 − Σ (α l + β s) with 1 − l and 1 − s written out, so that small distances stay exact.
    Images are compared at their own size; the paper resizes them to a shorter side of 256.

    Args:
        width: channels of VGG-16's first block; 64 as published.
        rngs: random numbers for the backbone; α and β start at 1.

    >>> model = nnx.eval_shape(lambda: DISTS(rngs=nnx.Rngs(0)))
    >>> model.alpha.shape
    (1475,)

    Weights: α and β under the MIT licence; the backbone is torchvision's VGG-16 for ImageNet.
    """

    minimum = 1

    def __init__(self, *, width: int = 64, rngs: nnx.Rngs):
        self.backbone = vgg16(width=width, pool=L2Pool, rngs=rngs)
        channels = 3 + sum(self.backbone.channels(tap) for tap in TAPS)
        self.alpha = nnx.Param(jnp.ones(channels))
        self.beta = nnx.Param(jnp.ones(channels))

    def features(self, images: Images) -> dict[str, Float[Array, "b _ _ _"]]:
        """Return the six maps by name; the image itself is ``"image"``."""
        _, maps = self.backbone.run(normalise(images, VGG16.mean, VGG16.std), taps=TAPS)
        return {"image": images, **maps}

    def compare(self, x: dict[str, Float[Array, "b _ _ _"]], y: dict[str, Float[Array, "b _ _ _"]]) -> Scores:
        """Return D from the `features` of both images."""
        texture, structure = zip(*(_terms(x[name], y[name]) for name in ("image", *TAPS)), strict=True)
        alpha, beta = self.alpha[...], self.beta[...]
        total = jnp.concatenate(texture, 1) @ alpha + jnp.concatenate(structure, 1) @ beta
        return total / (jnp.sum(alpha) + jnp.sum(beta))


def _terms(x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Return 1 − l and 1 − s of every channel."""
    mean_x, mean_y = jnp.mean(x, (1, 2)), jnp.mean(y, (1, 2))
    x, y = x - mean_x[:, None, None], y - mean_y[:, None, None]
    spread = jnp.mean(x * x + y * y, (1, 2))
    return (
        jnp.square(mean_x - mean_y) / (jnp.square(mean_x) + jnp.square(mean_y) + C1),
        jnp.mean(jnp.square(x - y), (1, 2)) / (spread + C2),
    )


SPEC = NetworkSpec(
    build=DISTS,
    rules=(
        *key_map.under("backbone", VGG16.rules),
        *key_map.without(VGG16.classifier_rules),
        ("alpha|beta", r"\g<0>", vector),
    ),
    title="DISTS",
    paper="arXiv:2004.07728",
    licence="MIT",
    weights={
        "published": WeightsUrl(
            url=None, page="https://github.com/dingkeyan93/DISTS (DISTS_pytorch/weights.pt)", size=12_288
        )
    },
)
