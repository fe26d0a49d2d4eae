"""A metric with a norm-controlled tail: the first stages of a backbone, then 1-Lipschitz layers up to the score."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.nn.lipschitz_tail import LipschitzTail, tail_constant
from jaxiqa.nn.stages import Features, normalise

RECIPE = Recipe(epochs=30, batch_size=8, loss="mse", learning_rate=1e-3, backbone_factor=0.01, decay_every=10)
"""Linearity's rate (arXiv:2008.03889) for the trunk, ten times its rate for the tail, and a loss of absolute scores."""


class NormControlled(Metric):
    """Quality score whose steepness behind the trunk is one number: ``score = k · (slope · f(trunk(x)) + offset) + b``.

    The trunk is the backbone up to and including the stage ``after``. f is a `jaxiqa.nn.lipschitz_tail.LipschitzTail`:
    orthogonal maps, MaxMin, the mean over pixels, a unit-norm map. So as a function of the trunk's output, in the
    Euclidean norm, the score has the Lipschitz bound `tail_bound`: ``|k| · slope · 1/√n``, n the pixels of the tail's
    last map. Only ``slope`` and the trunk can make the score steep.

    "mse" and "mae" train ``slope``, and reward an f that spreads the scores at a given slope. A loss that ignores the
    scale of scores (norm_in_norm, plcc) does not: f may then vary little, and the calibration ``k`` becomes large.

    Args:
        backbone: a name in `BACKBONES`.
        width: channels of the backbone's first stage; None: as published.
        after: last stage of the trunk; None: the lower tap of the backbone. Blocks inserted *after* it belong to the
            trunk too.
        channels: of the tail's layers; even.
        depth: number of orthogonal convolutions; all but the first halve the map.
        input_size: (height, width) in pixels to which images are resized; None scores them at their own size.
        rngs: random numbers for the weights.

    Raises:
        ValueError: an unknown backbone or stage, an odd number of channels, or a number below 1.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", metric="norm_controlled", width=8, channels=8)
    >>> model(jnp.zeros((2, 40, 56, 3))).shape, model.backbone.order[-1], model.tail_bound((40, 64))
    ((2,), 'layer3.1', 0.5)

    Reference: the layers are named in `jaxiqa.nn.lipschitz_tail.LipschitzTail`. **Differs from the papers**: they train
    1-Lipschitz classifiers; here only the part behind a trunk is 1-Lipschitz, and its output is scaled.
    """

    recipe = RECIPE
    restartable = True
    partial = True

    def __init__(
        self,
        backbone: str = "efficientnet_lite0",
        *,
        width: int | None = None,
        after: str | None = None,
        channels: int = 64,
        depth: int = 2,
        input_size: tuple[int, int] | None = None,
        rngs: nnx.Rngs,
    ):
        check_choice("backbone", backbone, BACKBONES)
        spec = BACKBONES[backbone]
        self.architecture = backbone
        width = spec.width if width is None else width
        after = spec.taps[0] if after is None else after
        check_number("width", width, 1)
        for side in input_size or ():
            check_number("input_size", side, 1)
        self.input_size = input_size
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=width, rngs=rngs).upto(after)
        self.depth = depth
        self.tail = LipschitzTail(self.backbone.widths[-1], channels=channels, depth=depth, rngs=rngs)
        self.keep(backbone=backbone, width=width, after=after, channels=channels, depth=depth, input_size=input_size)

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
        """Return ``slope · f + offset`` of prepared images."""
        return self.outputs(pixels)["score"]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return feature maps of prepared images by name: stages of the trunk, and ``pooled`` (``b channels``)."""
        stages = [name for name in names if name != "pooled"]
        last, maps = self.backbone.run(self._normalised(pixels), stop=self.backbone.order[-1], taps=stages)
        return {name: maps[name] if name in maps else self.tail.pooled(last) for name in names}

    def outputs(self, images: Images) -> dict[str, Scores]:
        """Return, as ``score``, ``slope · f + offset`` of prepared images."""
        return self.outputs_from(self._normalised(images))

    def item_outputs(self, pixels: Images) -> dict[str, Scores]:
        """Return `outputs`: images are trained on as they are prepared."""
        return self.outputs(pixels)

    def trunk(self, pixels: Images, stop: str) -> Features:
        """Return the output of stage ``stop`` for prepared images; `outputs_from` continues from there."""
        return self.backbone.run(self._normalised(pixels), stop=stop)[0]

    def outputs_from(self, activations: Features, start: str | None = None) -> dict[str, Scores]:
        """Return `outputs` from the output of stage ``start``; without ``start``, from normalised pixels."""
        features, _ = self.backbone.run(activations, start=start)
        return {"score": self.tail(features)}

    def tail_bound(self, image_size: tuple[int, int]) -> float:
        """Return the Lipschitz bound of the calibrated score as a function of the trunk's output, Euclidean norm.

        Args:
            image_size: (height, width) of the images.
        """
        pixels = jax.ShapeDtypeStruct((1, *(self.input_size or image_size), 3), jnp.float32)
        size = jax.eval_shape(lambda x: self.trunk(x, self.backbone.order[-1]), pixels).shape[1:3]
        return abs(float(self.calibration[0] * self.tail.slope)) * tail_constant(size, depth=self.depth)

    def _normalised(self, pixels: Images) -> Features:
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        return normalise(pixels, self.mean, self.std)


def control_tail(model: Metric, *, after: str, channels: int = 64, depth: int = 2, rngs: nnx.Rngs) -> NormControlled:
    """Return a metric of the first stages of ``model`` and a new norm-controlled tail; ``model`` is not changed.

    The trunk is copied: weights, inserted blocks and swapped activations. Of the metric's protocol only ``input_size``
    is kept, if that is one of its options: without it, images are scored at their own size, in one pass.

    Args:
        model: a metric over one of `BACKBONES`.
        after: last stage of the trunk. Blocks inserted *after* it belong to the trunk too.
        channels, depth: of the tail, see `NormControlled`.
        rngs: random numbers for the tail's weights.

    Raises:
        TypeError: ``model`` is no metric over one of `BACKBONES`, or normalises pixels in another way.
        ValueError: an unknown stage, an odd number of channels, or a number below 1.

    >>> from jaxiqa.models import build
    >>> model = build("resnet18", width=8)
    >>> controlled = control_tail(model, after="layer2", channels=8, rngs=nnx.Rngs(1))
    >>> controlled.backbone.order[-1], dict(controlled.options)["depth"]
    ('layer2.1', 2)
    """
    backbone = getattr(model, "architecture", None)
    if backbone not in BACKBONES:
        raise TypeError(
            f"model is a {type(model).__name__} with a network of its own; only a metric over one of the backbones "
            f"{', '.join(BACKBONES)} can get a controlled tail"
        )
    if model.std != BACKBONES[backbone].std:
        raise TypeError(
            f"model is a {type(model).__name__}, which does not normalise pixels as the backbone {backbone} expects; "
            "its stages would see other numbers in front of a controlled tail"
        )
    trunk = nnx.clone(model.backbone.upto(after))
    trunk.eval()
    inserted = {block.name for block in trunk.insertions}
    options = dict(model.options)
    controlled = NormControlled(
        backbone,
        width=options["width"],
        after=[name for name in trunk.order if name not in inserted][-1],
        channels=channels,
        depth=depth,
        input_size=options.get("input_size"),
        rngs=rngs,
    )
    controlled.backbone = trunk
    return controlled


NORM_CONTROLLED_SPEC = ModelSpec(
    metric=NormControlled,
    rules=(),
    title="Norm-controlled tail",
    paper="ours; its layers: arXiv:1811.05381, arXiv:2104.07167",
    protocol="native size, one pass",
    results="none known for KonIQ-10k",
    licence="no published weights",
)
