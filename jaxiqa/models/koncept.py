"""KonCept512, one regression on the last map of an Inception-ResNet-v2.

"KonIQ-10k: An Ecologically Valid Database for Deep Learning of Blind Image Quality Assessment", arXiv:1910.06180.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones import BACKBONES, inception_keras, inception_resnet_v2
from jaxiqa.nn.dropout import Dropout
from jaxiqa.nn.global_pooling import global_pool
from jaxiqa.nn.stages import Features, normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

EPSILON = 1e-5
SMALLEST = 75  # image side at which the last map has one pixel


RECIPE = Recipe(
    epochs=70,
    batch_size=16,
    loss="mse",
    labels="percent",
    learning_rate=((0, 1e-4), (40, 5e-5), (60, 1e-5)),
    select="plcc",
    flip=True,
)
"""Adam on whole images of 384 × 512 or 768 × 1024 with three learning rates, as in the training code of
"Robustness as Architecture", arXiv:2506.04951. The published PyTorch code has 1e-4 for 40 epochs, then 2e-5 for 20."""


class Head(nnx.Module):
    """Map pooled features to a score: four linear maps; ReLU, batch norm and dropout after each of the first three."""

    activation = "relu"

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        sizes = (features, 2048, 1024, 256, 1)
        self.linear = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.norm = nnx.List(
            [nnx.BatchNorm(n, use_running_average=True, momentum=0.9, epsilon=EPSILON, rngs=rngs) for n in sizes[1:-1]]
        )
        self.dropout = nnx.List([Dropout(rate) for rate in (0.25, 0.25, 0.5)])

    def hidden(self, x: Float[Array, "b features"]) -> Float[Array, "b 256"]:
        """Return the input of the last linear map."""
        for linear, norm, drop in zip(self.linear[:-1], self.norm, self.dropout, strict=True):
            x = drop(norm(activate(self.activation, linear(x))))
        return x

    def __call__(self, x: Float[Array, "b features"]) -> Float[Array, " b"]:
        return self.linear[-1](self.hidden(x))[:, 0]


class KonCept512(Metric):
    """``score = head(pool(inception_resnet_v2((pixels - 0.5) / 0.5)))``, a mean opinion score, about 0 to 100.

    Protocol: the image at its own size, in one pass. The published weights were trained on images of KonIQ-10k of
    384 × 512 (h × w), whose last map is 10 × 14. Published weights: MIT licence.

    Args:
        backbone: a name in `jaxiqa.nn.backbones.BACKBONES`; with another than the published one the metric is new: its
            pixels are normalised as the backbone expects, and the head reads its last stage.
        pooling: ``"official"`` averages the top left 8 × 8 of the last map and ignores the rest. It accepts maps of 8
            to 15 on both sides, that is images of 299 to 554 pixels. ``"full"`` averages the whole map of an image of
            any size, with the published backbone from 75 × 75, as the paper's Keras model does, whose file can be
            loaded too. The weights for PyTorch give other scores with ``"full"``. None: ``"official"`` with the
            published backbone, ``"full"`` with others.
        width: channels of the backbone's first stage; None: as published.
        rngs: random numbers for the weights.

    **Differs from the paper**: the ``"official"`` pooling is that of the published PyTorch class.

    >>> model = nnx.eval_shape(lambda: KonCept512(rngs=nnx.Rngs(0)))
    >>> images = jax.ShapeDtypeStruct((2, 384, 512, 3), "float32")
    >>> nnx.eval_shape(lambda model, images: model(images), model, images).shape
    (2,)
    """

    input_size = None
    published_range = (0.0, 100.0)
    recipe = RECIPE
    global_pooling = "mean"

    def __init__(
        self,
        *,
        backbone: str = "inception_resnet_v2",
        pooling: str | None = None,
        width: int | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("backbone", backbone, BACKBONES)
        spec, own = BACKBONES[backbone], backbone == "inception_resnet_v2"
        pooling = pooling or ("official" if own else "full")
        width = spec.width if width is None else width
        check_choice("pooling", pooling, ("official", "full"))
        self.architecture, self.pooling = backbone, pooling
        self.mean, self.std, self.smallest = spec.mean, spec.std, SMALLEST if own else 1
        self.backbone = spec.build(width=width, rngs=rngs)
        self.head = Head(self.backbone.widths[-1], rngs=rngs)
        self.keep(backbone=backbone, pooling=pooling, width=width)

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Return scores of RGB images in [0, 1]; higher is better. Nothing is random: ``key`` is ignored."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Images:
        """Return the images unchanged."""
        check_images("images", images, minimum=self.smallest)
        return images

    def raw(self, pixels: Images) -> Scores:
        """Return scores of RGB pixels in [0, 1]."""
        last, _ = self.backbone.run(self._normalised(pixels))
        return self.head(self._pool(last))

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps by name: stages of the backbone, ``pooled`` (``b 1536``), ``hidden`` (``b 256``)."""
        stages = [name for name in names if name not in ("pooled", "hidden")]
        last = self.backbone.order[-1]
        if len(stages) < len(names):
            stages.append(last)
        _, maps = self.backbone.run(self._normalised(pixels), taps=stages)
        heads = {"pooled": self._pool, "hidden": lambda x: self.head.hidden(self._pool(x))}
        return {name: heads[name](maps[last]) if name in heads else maps[name] for name in names}

    def _normalised(self, pixels: Images) -> Features:
        check_unit_images(pixels, minimum=self.smallest, name="pixels", slack=OVERSHOOT)
        return normalise(pixels, self.mean, self.std)

    def _pool(self, last: Features) -> Float[Array, "b c"]:
        if self.pooling == "full":
            return global_pool(self.global_pooling, last)
        h, w = last.shape[1:3]
        if not (8 <= h <= 15 and 8 <= w <= 15):
            raise ValueError(
                f"the last map is {h}x{w}; pooling='official' takes 8x8 to 15x15, that is images with sides of 299 to "
                "554 pixels; resize the images (the weights were trained at 384x512), or use pooling='full'"
            )
        return global_pool(self.global_pooling, last[:, :8, :8])


# Published checkpoint: parts of the backbone are members of one Sequential; members without weights are counted too.
INDICES = (0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14)
PARTS = {
    rf"base\.{index}" + r"\.(\d+)" * part.count("("): stage
    for index, (part, stage) in zip(INDICES, inception_resnet_v2.PARTS.items(), strict=True)
}
RULES = (
    *key_map.under("backbone", inception_resnet_v2.rules(PARTS)),
    *(rule for i in range(4) for rule in key_map.linear(rf"fc\.{4 * i}", f"head.linear.{i}")),
    *(rule for i in range(3) for rule in key_map.batch_norm(rf"fc\.{4 * i + 2}", f"head.norm.{i}")),
)


def from_keras(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the arrays of the paper's Keras file as in the PyTorch checkpoint; return other arrays unchanged.

    Batch norm adds 1e-3 to the variance in Keras and 1e-5 in PyTorch; the head's variances get the difference.
    """
    if "fc_out.kernel" not in arrays:
        return dict(arrays)
    parts = (part.partition("\\")[0] for part in inception_resnet_v2.PARTS)
    members = {part: f"base.{index}" for index, part in zip(INDICES, parts, strict=True)}
    found = {}
    for name, array in inception_keras.from_keras(arrays).items():
        part, _, rest = name.partition(".")
        if part in members:
            found[f"{members[part]}.{rest}"] = array
        elif match := re.fullmatch(r"fc_(?:fc(\d)|out)\.(kernel|bias)", name):
            i = int(match[1] or 3)
            found[f"fc.{4 * i}.{'weight' if rest == 'kernel' else 'bias'}"] = array.T
        elif (match := re.fullmatch(r"fc_bn(\d)\.(\w+)", name)) and match[2] in inception_keras.NORM:
            array = array + np.float32(1e-3 - EPSILON) if match[2] == "moving_variance" else array
            found[f"fc.{4 * int(match[1]) + 2}.{inception_keras.NORM[match[2]]}"] = array
        else:
            found[name] = array
    return found


KONCEPT_SPEC = ModelSpec(
    metric=KonCept512,
    rules=RULES,
    adapt=from_keras,
    title="KonCept512",
    paper="arXiv:1910.06180",
    protocol="native size (trained at 384x512), one pass",
    results="KonIQ-10k .912 / .927",
    licence="MIT",
    weights={"koniq10k": WeightsUrl(url=None, page="https://github.com/ZhengyuZhao/koniq-PyTorch")},
)
