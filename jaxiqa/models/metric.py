"""Base class of every quality metric: calibration, training outputs and inserted blocks."""

from collections.abc import Callable, Mapping
from math import inf, nan
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jaxiqa.core.checks import check_number
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.recipe import Recipe
from jaxiqa.nn.stages import Insertion, Stages


class Calibration(nnx.Variable):
    """Numbers that are fitted after training, not trained: slope, intercept, lowest and highest score."""


class Metric(nnx.Module):
    """A quality metric: ``score = k · raw(prepare(image)) + b``, averaged over the items that an image is cut into.

    A subclass defines ``prepare``, ``raw`` and ``features``, and ends its ``__init__`` with `keep`.
    `jaxiqa.models.spec.ModelSpec` says what each of them promises.

    Attributes:
        backbone: the stages into which `jaxiqa.models.harden` inserts blocks. A metric that is no network of stages
            (`jaxiqa.models.brisque`) lacks it: `harden` raises an error, everything else is the same.
        architecture: name in `jaxiqa.nn.backbones.BACKBONES` of its backbone, or None if it has a network of its own.
        options: the arguments it was built with, as pairs; `jaxiqa.models.save` stores them.
        input_size: (height, width) of the pixels if the protocol fixes it, or None.
        published_range: (lowest, highest) score of the published weights, or None.
        recipe: how its authors trained it.
        loss_weights: name of each training output -> weight of its loss in the total.
        cancelled: patterns of parameters whose effect is cancelled by the batch norm after them. They are not trained:
            their gradient is rounding noise, which Adam would scale up to full steps.
        std: by which pixels are divided before the first stage of the backbone, per RGB channel.
        restartable: whether `trunk` and `outputs_from` exist, so that the output of frozen stages can be stored.
        partial: whether its backbone ends before the last stage of ``BACKBONES[architecture]``.
        regional: whether ``region_outputs(images, boxes)`` exists, so that labels of regions can be trained on.
    """

    backbone: Stages
    architecture: str | None = None
    options: tuple[tuple[str, Any], ...]
    input_size: tuple[int, int] | None = None
    published_range: ClassVar[tuple[float, float] | None] = None
    recipe: ClassVar[Recipe] = Recipe(epochs=30, batch_size=16, loss="mse", learning_rate=1e-4, backbone_factor=0.1)
    loss_weights: ClassVar[Mapping[str, float]] = {"score": 1.0}
    cancelled: ClassVar[tuple[str, ...]] = ()
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    restartable: ClassVar[bool] = False
    partial: ClassVar[bool] = False
    regional: ClassVar[bool] = False

    def keep(self, **options: Any) -> None:
        """Store the options of ``__init__`` and reset the calibration: k = 1, b = 0, the published range."""
        self.options = tuple(options.items())
        self.reset_calibration()

    def reset_calibration(self) -> None:
        """Set k = 1, b = 0 and the published range."""
        self.calibration = Calibration(jnp.array([1.0, 0.0, *(self.published_range or (nan, nan))], jnp.float32))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Images:
        """The pixels of all items, those of image 0 first."""
        raise NotImplementedError

    def raw(self, pixels: Images) -> Scores:
        """Return the network's output for each prepared item; higher is better."""
        raise NotImplementedError

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Scores of RGB images in [0, 1]; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key)).reshape(images.shape[0], -1).mean(1)

    def network(self, pixels: Images) -> Scores:
        """Return one score per prepared item: ``k · raw(pixels) + b``; higher is better."""
        return self.calibrated(self.raw(pixels))

    def calibrated(self, raw: Array) -> Array:
        """Return ``k · raw + b``."""
        return self.calibration[0] * raw + self.calibration[1]

    def outputs(self, images: Images) -> dict[str, Scores]:
        """Return the outputs that are trained on labels, before calibration, by name; the score is from ``"score"``.

        One value per image and output. By default there is one output, the score of the whole protocol.
        """
        return {"score": (self(images) - self.calibration[1]) / self.calibration[0]}

    def item_outputs(self, pixels: Images) -> dict[str, Array]:
        """Return the training outputs of prepared items, such as crops: by default ``raw`` as the score.

        What is not in ``loss_weights`` is for `total_loss` only. One row per item.
        """
        return {"score": self.raw(pixels)}

    @classmethod
    def total_loss(cls, outputs: Mapping[str, Array], mos: Array, loss: Callable[[Array, Array], Array]) -> Array:
        """Return the loss of a batch: Σ weight · loss(output, mos) over the outputs in ``loss_weights``.

        Args:
            outputs: of `outputs` or `item_outputs`, of the whole batch; if regions have labels, of ``region_outputs``,
                and their labels as ``region_mos``, ``b r``.
            mos: labels, ``b``.
            loss: ``(predictions b, mos b) -> number``.
        """
        return sum((w * loss(outputs[name], mos) for name, w in cls.loss_weights.items()), jnp.float32(0))

    @property
    def insertions(self) -> tuple[Insertion, ...]:
        """Return the blocks that `jaxiqa.models.harden` inserted into the backbone; none without a backbone."""
        return self.backbone.insertions if hasattr(self, "backbone") else ()

    @property
    def last_restart(self) -> str:
        """Return the last stage from which ``outputs_from`` can continue, of a metric that is ``restartable``."""
        return self.backbone.order[-1]

    @property
    def score_range(self) -> tuple[float, float]:
        """Return (lowest, highest) score, whose difference divides gains; raise ``ValueError`` if it is not set."""
        low, high = (float(value) for value in self.calibration[2:])
        if not low < high:
            raise ValueError("the model has no score_range yet: call model.calibrate(k=..., b=..., score_range=...)")
        return low, high

    def calibrate(self, *, k: float, b: float, score_range: tuple[float, float]) -> None:
        """Set the map from raw outputs to scores, ``k · raw + b``, and the score range, which divides gains.

        Args:
            k, b: slope and intercept, usually least squares of the labels on the training set.
            score_range: (lowest, highest) score, in the units of ``k · raw + b``.

        Raises:
            ValueError: a number that is not finite, or low ≥ high.

        >>> from jaxiqa.models import build
        >>> model = build("resnet18", width=8)
        >>> model.calibrate(k=8.0, b=61.0, score_range=(0.0, 100.0))
        >>> model.score_range
        (0.0, 100.0)
        """
        check_number("k", k, -inf, inf)
        check_number("b", b, -inf, inf)
        low, high = score_range
        if not -inf < low < high < inf:
            raise ValueError(f"score_range={score_range} must be (low, high), finite and low < high")
        self.calibration = Calibration(jnp.array([k, b, low, high], jnp.float32))
