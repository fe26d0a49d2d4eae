"""MANIQA: a vision transformer, attention across channels, and Swin stages.

"MANIQA: Multi-dimension Attention Network for No-Reference Image Quality Assessment", arXiv:2204.08958.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, PRNGKey, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones import swin, vit
from jaxiqa.nn.conv import conv
from jaxiqa.nn.crops import Crops, grid_crops, random_crops, uniform_crops
from jaxiqa.nn.stages import Stages, normalise
from jaxiqa.nn.transformer import attention
from jaxiqa.ops.cubic import resize_cubic
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

PROTOCOLS = ("official", "resize", "pyiqa")
PARTS = ("fc_score", "fc_weight")
CROP = 224
AT_ONCE = 5
"""Largest number of crops in one pass through the network."""
HALF = (0.5, 0.5, 0.5)


RECIPE = Recipe(
    epochs=300,
    batch_size=8,
    loss="mse",
    labels="unit",
    select="sum",
    learning_rate=1e-5,
    weight_decay=1e-5,
    schedule="cosine",
    decay_every=50,
    flip=True,
    crops=1,
    crop=(CROP, CROP),
    resize=(CROP, CROP),
)
"""The published code for KonIQ-10k: whole images resized to 224 × 224.

**Differs**: the code turns its cosine every 50 steps, the paper every 50 epochs, as here. Resizing is bilinear instead
of cubic, and half of the images are mirrored instead of 70 %."""


class ChannelAttention(nnx.Module):
    """Attention between the channels of a map: each channel is a token with N = h·w features.

    With X the map as ``c N`` and q, k, v = X through three linear maps: ``A = softmax(q kᵀ / √N)`` (``c c``) and
    ``X + scramble(A v)``. The published network transposes ``A v`` to ``N c`` and then reads its numbers, row by row,
    as ``c N`` again: value (i, j) of the added term is value (m mod c, m div c) of ``A v``, m = i·N + j. This mixes
    pixels and channels for no reason, but the weights were trained with it, so it is kept.

    Args:
        pixels: N; maps of any other size are not accepted.
        rngs: random numbers for the weights.
    """

    def __init__(self, pixels: int, *, rngs: nnx.Rngs):
        self.c_q = nnx.Linear(pixels, pixels, rngs=rngs)
        self.c_k = nnx.Linear(pixels, pixels, rngs=rngs)
        self.c_v = nnx.Linear(pixels, pixels, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        rows = x.reshape(b, h * w, c).swapaxes(1, 2)
        queries = self.c_q(rows) / math.sqrt(h * w)
        product = attention(queries, self.c_k(rows), self.c_v(rows))
        scrambled = product.swapaxes(1, 2).reshape(b, c, h * w)
        return (rows + scrambled).swapaxes(1, 2).reshape(b, h, w, c)


class Head(nnx.Module):
    """Compute ``linear2(relu(linear1(x)))``, one number per pixel."""

    activation = "relu"

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.linear1 = nnx.Linear(features, features, rngs=rngs)
        self.linear2 = nnx.Linear(features, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
        return self.linear2(activate(self.activation, self.linear1(x)))[..., 0]


class MANIQA(Metric):
    """Quality score of 224×224 crops: a weighted mean over 28×28 patches.

    ``score = Σ f w / Σ w``, ``f = relu(fc_score(z))``, ``w = sigmoid(fc_weight(z))`` per patch. ``z`` comes through
    the stages ``vit`` (blocks 6 to 9 of a ViT-B/8 side by side, 3072 channels), ``tablock1.0``, ``tablock1.1``
    (`ChannelAttention`), ``conv1``, ``swin1.0``, ``swin1.1``, and ``tablock2.0`` … ``swin2.1`` with half the channels.
    A block inserted ``after:vit`` hardens the input of the transformer stages.

    The published weights contain parts that no score depends on: blocks 10 and 11 of the ViT, its last norm and
    classifier, and one convolution of each Swin part. They are not computed, and are dropped from checkpoints.

    **Protocols.** ``"official"``: 20 crops at native size, on an even grid (`jaxiqa.nn.crops.grid_crops`) or at
    uniformly random positions with a key; the mean of their scores. ``"resize"``: the whole image, resized to 224×224
    as the authors did for KonIQ-10k's training and validation (`jaxiqa.ops.cubic.resize_cubic`).
    ``"pyiqa"``: 20 crops on that toolbox's fixed grid (`jaxiqa.nn.crops.uniform_crops`) and one ``Σ f w / Σ w``
    over the patches of all crops.

    On a CPU, scoring a crop needs about 100 MiB besides the weights, and its gradient 1.1 GiB, mostly attention
    weights. A protocol's 20 crops are one batch, so score and attack few images at a time.

    Scores are about 0 to 1; higher is better. The published weights are under Apache-2.0.

    **Differs from the paper**: the order of values above follows its code; random crops may end at the last row and
    column; resized images are not rounded to 8 bits.

    Args:
        protocol: ``"official"``, ``"resize"`` or ``"pyiqa"``.
        crops: number of crops per image; ``"resize"`` has one. Time and memory of a score are proportional to it.
        width: channels of a token of the ViT and of the first Swin part; a multiple of 24.
        scale: factor of the branch of each Swin layer; pyiqa uses 0.13 for the weights trained on PIPAL.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown protocol, a width not allowed, fewer than one crop; in a call, crops of an image
            smaller than 224 pixels.

    >>> model = nnx.eval_shape(lambda: MANIQA(width=24, rngs=nnx.Rngs(0)))
    >>> jax.eval_shape(model.prepare, jnp.zeros((2, 300, 500, 3))).shape
    (40, 224, 224, 3)
    """

    input_size = (CROP, CROP)
    std = HALF
    published_range = (0.0, 1.0)
    recipe = RECIPE

    def __init__(
        self, *, protocol: str = "official", crops: int = 20, width: int = 768, scale: float = 0.8, rngs: nnx.Rngs
    ):
        check_choice("protocol", protocol, PROTOCOLS)
        check_number("crops", crops, 1)
        if width < 24 or width % 24:
            raise ValueError(f"width={width!r} is not allowed; it must be a multiple of 24")
        self.protocol, self.crops = protocol, crops
        trunk = vit.ViT(self.input_size, patch=8, features=width, heads=12, taps=(6, 7, 8, 9), rngs=rngs)
        stages: dict[str, tuple[nnx.Module, int]] = {"vit": (trunk, 4 * width)}
        pixels = trunk.grid[0] * trunk.grid[1]
        channels = 4 * width
        for part, features in (("1", width), ("2", width // 2)):
            for i in range(2):
                stages[f"tablock{part}.{i}"] = (ChannelAttention(pixels, rngs=rngs), channels)
            stages[f"conv{part}"] = (conv(channels, features, 1, bias=True, rngs=rngs), features)
            for i in range(2):
                layer = swin.SwinLayer(features, depth=2, heads=4, window=4, hidden=width, scale=scale, rngs=rngs)
                stages[f"swin{part}.{i}"] = (layer, features)
            channels = features
        self.backbone = Stages(stages)
        self.fc_score = Head(channels, rngs=rngs)
        self.fc_weight = Head(channels, rngs=rngs)
        self.keep(protocol=protocol, crops=crops, width=width, scale=scale)

    def __call__(self, images: Images, key: PRNGKey | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] by the protocol; random crops with a key (``"official"``)."""
        check_unit_images(images)
        sums = self._sums(self.prepare(images, key)).reshape(images.shape[0], -1, 2)
        if self.protocol == "pyiqa":
            sums = jnp.sum(sums, axis=1, keepdims=True)
        return self.calibrated(jnp.mean(sums[..., 0] / sums[..., 1], axis=1))

    def prepare(self, images: Images, key: PRNGKey | None = None) -> Crops:
        """Return the crops of all images, those of image 0 first, or resized images; see the class."""
        check_images("images", images)
        if self.protocol == "resize":
            return resize_cubic(images, self.input_size)
        if self.protocol == "pyiqa":
            return uniform_crops(images, CROP, self.crops)
        if key is None:
            return grid_crops(images, CROP, self.crops)
        return random_crops(images, CROP, self.crops, key)

    def raw(self, pixels: Images) -> Scores:
        """Return one score per 224×224 crop: ``Σ f w / Σ w``."""
        sums = self._sums(pixels)
        return sums[:, 0] / sums[:, 1]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of crops by name.

        Stages of the backbone (``b 28 28 c``); of the ViT ``patch_embed`` (``b 784 c``) and ``block0`` … ``block9``
        (``b 785 c``, the class token first); ``fc_score``, before its ReLU, and ``fc_weight``, after its sigmoid
        (``b 28 28``).
        """
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        if pixels.shape[1:3] != self.input_size:
            raise ValueError(f"pixels is {pixels.shape[1]}x{pixels.shape[2]}; this network takes crops of 224x224")
        x = normalise(pixels, HALF, self.std)
        trunk: Any = self.backbone.stage["vit"]
        tokens = [name for name in names if name in trunk.parts]
        stages = [name for name in names if name not in (*trunk.parts, *PARTS)]
        heads = len(tokens) + len(stages) < len(names)
        found: dict[str, Array] = {}
        if tokens:
            before = self.backbone.order[: self.backbone.place("before:vit")[0]]
            found |= trunk.tokens(self.backbone.run(x, stop=before[-1])[0] if before else x, tokens)
        if stages or heads:
            z, maps = self.backbone.run(x, stop=self.backbone.order[-1] if heads else None, taps=stages)
            found |= maps
        if heads:
            found |= {"fc_score": self.fc_score(z), "fc_weight": jax.nn.sigmoid(self.fc_weight(z))}
        return {name: found[name] for name in names}

    def _sums(self, pixels: Images) -> Float[Array, "b 2"]:
        """Return ``Σ f w`` and ``Σ w`` of every crop.

        The gradient needs 1.4 GB per crop. So only a few crops are held at a time; the others are computed again.
        """
        count = len(pixels)
        if count <= AT_ONCE:
            return self._sums_at_once(pixels)
        chunk = max(size for size in range(1, AT_ONCE + 1) if count % size == 0)
        # In a loop, XLA cannot merge a recomputation with the first computation.
        some = jax.checkpoint(self._sums_at_once, prevent_cse=False)
        return jax.lax.map(some, pixels.reshape(-1, chunk, *pixels.shape[1:])).reshape(count, 2)

    def _sums_at_once(self, pixels: Images) -> Float[Array, "b 2"]:
        parts = self.features(pixels, PARTS)
        weight = parts["fc_weight"]
        return jnp.stack([jnp.sum(jax.nn.relu(parts["fc_score"]) * weight, (1, 2)), jnp.sum(weight, (1, 2))], axis=1)


RULES = (
    *key_map.under("backbone.stage.vit", vit.rules(10, prefix=r"vit\.")),
    *key_map.linear(r"tablock(\d)\.(\d)\.(c_[qkv])", r"backbone.stage.tablock\1.\2.\3"),
    (r"conv(\d)\.weight", r"backbone.stage.conv\1.kernel", key_map.conv_kernel),
    (r"conv(\d)\.bias", r"backbone.stage.conv\1.bias", key_map.same),
    *swin.rules(r"swintransformer(?P<part>\d)\.layers\.(?P<layer>\d)", r"backbone.stage.swin\g<part>.\g<layer>"),
    (r"swintransformer\d\.downsample\..*", None, key_map.same),
    *key_map.linear(r"(fc_score|fc_weight)\.0", r"\1.linear1"),
    *key_map.linear(r"(fc_score|fc_weight)\.3", r"\1.linear2"),
)

_HUB = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights"
_PAGE = "https://github.com/IIGROUP/MANIQA"
MANIQA_SPEC = ModelSpec(
    metric=MANIQA,
    rules=RULES,
    title="MANIQA",
    paper="arXiv:2204.08958",
    protocol="mean over 20 crops of 224x224",
    results="KonIQ-10k .930 / .946 (the authors' own 80/20 split)",
    licence="Apache-2.0",
    weights={
        "koniq10k": WeightsUrl(url=f"{_HUB}/resolve/main/ckpt_koniq10k.pt", page=f"{_PAGE}/releases/tag/Koniq10k"),
        "kadid10k": WeightsUrl(url=f"{_HUB}/resolve/main/ckpt_kadid10k.pt", page=_PAGE),
        "pipal22": WeightsUrl(
            url=f"{_HUB}/resolve/main/MANIQA_PIPAL-ae6d356b.pth",
            page=f"{_PAGE}/releases/tag/PIPAL22",
            sha256="ae6d356b",
        ),
    },
)
