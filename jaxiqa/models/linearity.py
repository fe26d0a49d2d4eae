"""The Linearity metric: a head on two levels of a backbone, three scores.

"Norm-in-Norm Loss with Faster Convergence and Better Performance for Image Quality Assessment", arXiv:2008.03889.

**Differs from the paper**: it works with any backbone, and ``prepare`` does not round resized images to 8 bits.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.activations import activate
from jaxiqa.nn.backbones import BACKBONES, resnet
from jaxiqa.nn.global_pooling import global_pool
from jaxiqa.nn.stages import Features, normalise
from jaxiqa.pretrained import key_map
from jaxiqa.pretrained.files import WeightsUrl

Mode = Literal["train", "eval"]


RECIPE = Recipe(epochs=30, batch_size=8, loss="norm_in_norm", learning_rate=1e-4, backbone_factor=0.1, decay_every=10)
"""Adam, images of 498 × 664 (``input_size``), without augmentation."""


class Reduction(nnx.Module):
    """Map pooled features to 64 values: three linear maps, each with batch norm, and one ReLU at the end."""

    activation = "relu"

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        sizes = (features, 1024, 256, 64)
        self.linear = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.norm = nnx.List(
            [nnx.BatchNorm(size, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs) for size in sizes[1:]]
        )

    def __call__(self, x: Float[Array, "b features"]) -> Float[Array, "b 64"]:
        for linear, norm in zip(self.linear, self.norm, strict=True):
            x = norm(linear(x))
        return activate(self.activation, x)


class Linearity(Metric):
    """Quality score from two levels of a backbone.

    ``score = k · q + b``, ``q = regression([f6, f7])``, ``f_i = reduce_i(mean over pixels of tap_i)``. Training also
    uses one score per level, ``q_i = regr_i(f_i)``. A new model is in evaluation mode and uncalibrated (k = 1, b = 0).

    Args:
        backbone: a name in `BACKBONES`.
        width: channels of the backbone's first stage; None: as published.
        taps: the two stages that the head reads, in their order; None: the backbone's default. Blocks inserted *after*
            such a stage belong to what the head reads.
        input_size: (height, width) in pixels to which images are resized; None scores them at their own size. The
            published models use (498, 664).
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown backbone or stage, taps in the wrong order, or a size below 1.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)  # Linearity(...), compiled as one program
    >>> model(jnp.zeros((2, 40, 56, 3))).shape
    (2,)
    """

    recipe = RECIPE
    loss_weights = {"q6": 0.1, "q7": 0.1, "score": 1.0}  # noqa: RUF012  arXiv:2008.03889
    cancelled = (r"dr[67]\.linear\.\d+\.bias",)
    restartable = True
    global_pooling = "mean"

    def __init__(
        self,
        backbone: str,
        *,
        width: int | None = None,
        taps: tuple[str, str] | None = None,
        input_size: tuple[int, int] | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("backbone", backbone, BACKBONES)
        spec = BACKBONES[backbone]
        self.architecture = backbone
        self.width = spec.width if width is None else width
        check_number("width", self.width, 1)
        for side in input_size or ():
            check_number("input_size", side, 1)
        self.input_size = input_size
        self.taps = spec.taps if taps is None else tuple(taps)
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=self.width, rngs=rngs)
        if len(self.taps) != 2 or self.backbone.span(self.taps[0])[1] > self.backbone.span(self.taps[1])[1]:
            raise ValueError(f"taps={self.taps} must be two stages in the order of {', '.join(self.backbone.order)}")
        low, high = (self.backbone.channels(tap) for tap in self.taps)
        self.dr6 = Reduction(low, rngs=rngs)
        self.dr7 = Reduction(high, rngs=rngs)
        self.regr6 = nnx.Linear(64, 1, rngs=rngs)
        self.regr7 = nnx.Linear(64, 1, rngs=rngs)
        self.regression = nnx.Linear(128, 1, rngs=rngs)
        self.keep(backbone=backbone, width=self.width, taps=self.taps, input_size=input_size)

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of any size; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Float[Array, "b _ _ c"]:
        """Resize images to ``input_size``: bilinear, antialiased when shrinking, differentiable."""
        check_images("images", images)
        if self.input_size is None or images.shape[1:3] == self.input_size:
            return images
        shape = (images.shape[0], *self.input_size, images.shape[3])
        return jax.image.resize(images, shape, "bilinear", antialias=True)

    def raw(self, pixels: Images) -> Scores:
        """Return ``q`` of prepared images."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        levels = self._levels(normalise(pixels, self.mean, self.std))
        return self.regression(jnp.concatenate(levels, axis=1))[:, 0]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of prepared images by name: stages of the backbone, ``f6`` and ``f7`` (``b 64``)."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        heads = {"f6": (self.dr6, self.taps[0]), "f7": (self.dr7, self.taps[1])}
        wanted = {heads[name][1] if name in heads else name for name in names}
        _, maps = self.backbone.run(normalise(pixels, self.mean, self.std), taps=tuple(sorted(wanted)))
        pooled = {
            name: reduce(global_pool(self.global_pooling, maps[tap]))
            for name, (reduce, tap) in heads.items()
            if name in names
        }
        return {name: pooled[name] if name in heads else maps[name] for name in names}

    def outputs(self, images: Images) -> dict[str, Scores]:
        """Return ``q6``, ``q7`` and, as ``score``, ``q`` of prepared images: the outputs that are trained."""
        check_unit_images(images, slack=OVERSHOOT)
        return self.outputs_from(normalise(images, self.mean, self.std))

    def item_outputs(self, pixels: Images) -> dict[str, Scores]:
        """Return `outputs`: images are trained on as they are prepared."""
        return self.outputs(pixels)

    def trunk(self, pixels: Images, stop: str) -> Features:
        """Return the output of stage ``stop`` for prepared images; `outputs_from` continues from there."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        return self.backbone.run(normalise(pixels, self.mean, self.std), stop=stop)[0]

    def outputs_from(self, activations: Features, start: str | None = None) -> dict[str, Scores]:
        """Return `outputs` from the output of stage ``start``; without ``start``, from normalised pixels."""
        f6, f7 = self._levels(activations, start)
        q = self.regression(jnp.concatenate([f6, f7], axis=1))
        return {"q6": self.regr6(f6)[:, 0], "q7": self.regr7(f7)[:, 0], "score": q[:, 0]}

    @property
    def last_restart(self) -> str:
        """Return the stage whose output the head reads at its lower tap."""
        return self.backbone.order[self.backbone.tapped(self.taps[0])]

    def _levels(self, activations: Features, start: str | None = None) -> tuple[Array, Array]:
        _, features = self.backbone.run(activations, start=start, taps=self.taps)
        pooled = [global_pool(self.global_pooling, features[tap]) for tap in self.taps]
        return self.dr6(pooled[0]), self.dr7(pooled[1])


# The published checkpoints: torchvision's layers are members of one Sequential.
RULES = (
    *key_map.under("backbone", resnet.rules(tuple(rf"features\.{i}" for i in (0, 1, 4, 5, 6, 7)))),
    *(rule for i in range(3) for rule in key_map.linear(rf"dr([67])\.{2 * i}", rf"dr\1.linear.{i}")),
    *(rule for i in range(3) for rule in key_map.batch_norm(rf"dr([67])\.{2 * i + 1}", rf"dr\1.norm.{i}")),
    *key_map.linear("(regr6|regr7|regression)", r"\1"),
)


def _calibrate(model: Linearity, extras: Mapping[str, np.ndarray]) -> None:
    # Each is a list of three: for the final score, for the lower and for the upper level.
    k, b = (
        float(np.ravel(extras[name])[0]) if name in extras else default for name, default in (("k", 1.0), ("b", 0.0))
    )
    model.calibrate(k=k, b=b, score_range=(0.0, 100.0))


def _published(
    *,
    backbone: str = "resnext101_32x8d",
    width: int | None = None,
    taps: tuple[str, str] | None = None,
    input_size: tuple[int, int] | None = (498, 664),
    rngs: nnx.Rngs,
) -> Linearity:
    return Linearity(backbone, width=width, taps=taps, input_size=input_size, rngs=rngs)


LINEARITY_SPEC = ModelSpec(
    metric=Linearity,
    construct=_published,
    rules=RULES,
    title="LinearityIQA",
    paper="arXiv:2008.03889",
    protocol="resized to 498x664 (bilinear, antialiased)",
    results="KonIQ-10k .937 / .947",
    licence="no licence file",
    extras=("k", "b"),
    finish=_calibrate,
    weights={
        "p1q2": WeightsUrl(None, "https://github.com/lidq92/LinearityIQA (p1q2.pth)"),
        "p1q2plus0.1variant": WeightsUrl(None, "https://github.com/lidq92/LinearityIQA (p1q2plus0.1variant.pth)"),
    },
)
