"""A metric whose Lipschitz constant is one number, so that every score has a certificate."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number, check_option, check_size
from jaxiqa.core.images import OVERSHOOT, check_images, check_unit_images
from jaxiqa.core.types import Images, Scores
from jaxiqa.core.variables import Constant
from jaxiqa.layers import resize_constant
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.models.spec import ModelSpec
from jaxiqa.nn.lipschitz_net import LipschitzNet, size_factor

GREY = 0.45
"""Subtracted from the pixels: a shift changes no distance, and photographs are about this bright."""

RECIPE = Recipe(epochs=100, batch_size=16, loss="mse", labels="unit", learning_rate=3e-3, schedule="cosine", flip=True)
"""Ours: labels in [0, 1], so that ``slope`` is in units of their range."""


class LipschitzIQA(Metric):
    """Quality score with a known Lipschitz constant: ``score = k · (slope · √(n₀/n) · f(image) + offset) + b``.

    f is a `jaxiqa.nn.lipschitz_net.LipschitzNet`: ‖f‖_Lip ≤ 1 in the Euclidean norm of [0, 1] pixels. n is the number
    of pixels, and n₀ = 256². f grows as √n, so √(n₀/n) makes the score independent of the image size;
    the constant of a larger image is smaller. No other part can make the score steep: `constant` returns
    ``|k| · slope · √(n₀/n)``, times the norms of the matrices, which are 1 up to rounding. ``constant · radius`` is the
    certificate of every image (`certified_interval`). The constant is an upper bound. A trained metric nearly reaches
    it; one with fewer cells than ``ranks``, or with a last level of fewer channels than ``reduced``, may not.

    Args:
        channels: of each level of the network, which halves the map.
        depth: layers of each level.
        cell, ranks, reduced: of the sorted energies, see the network.
        slope: a number fixes it; None trains it, from 0.03. With labels in [0, 1] (`Training.labels` "unit") it is the
            share of the labels' range per unit of Euclidean distance on images of 256×256.
        input_size: (height, width) to which images are resized, antialiased. The resize has a constant too, which is
            counted. None: the image's own size.
        rngs: random numbers for the weights.

    Raises:
        ValueError: a number below its range.

    Its matrices are parameters that must stay orthogonal: train it by ``train.py``, or in a loop of your own by
    `jaxiqa.train.manifold.on_manifold`.

    >>> model = LipschitzIQA(channels=(12, 16), depth=(1, 1), slope=0.02, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((2, 40, 56, 3))).shape, round(model.constant((256, 256)), 6)
    ((2,), 0.02)

    Reference: the network in Hu et al., arXiv:2601.18513; a full-reference metric with a Lipschitz bound: Ghazanfari et
    al., "LipSim: A Provably Robust Perceptual Similarity Metric", arXiv:2310.18274.
    """

    recipe = RECIPE

    def __init__(
        self,
        *,
        channels: Sequence[int] = (12, 48, 192),
        depth: Sequence[int] = (0, 0, 1),
        cell: int = 2,
        ranks: int = 8,
        reduced: int = 24,
        slope: float | None = None,
        input_size: tuple[int, int] | None = None,
        rngs: nnx.Rngs,
    ):
        if input_size is not None:
            check_size("input_size", input_size)
        if slope is not None:
            check_number("slope", slope, 0.0, math.inf, open_low=True)
        shape: dict[str, Any] = {"channels": tuple(channels), "depth": tuple(depth)}
        shape |= {"cell": cell, "ranks": ranks, "reduced": reduced}
        self.net = LipschitzNet(**shape, rngs=rngs)
        start = jnp.log(jnp.full(1, 0.03 if slope is None else slope))
        self.log_slope: nnx.Variable = nnx.Param(start) if slope is None else Constant(start)
        self.offset = nnx.Param(jnp.full(1, 0.5))
        self.input_size = None if input_size is None else (input_size[0], input_size[1])
        self.keep(**shape, slope=slope, input_size=self.input_size)

    @property
    def slope(self) -> Float[Array, ""]:
        """Return the constant of the raw score on images of 256×256."""
        return jnp.exp(self.log_slope[0])

    def __call__(self, images: Images, key: jax.Array | None = None) -> Scores:
        """Return scores of RGB images in [0, 1] of any size; higher is better."""
        check_unit_images(images)
        return self.network(self.prepare(images, key))

    def prepare(self, images: Images, key: jax.Array | None = None) -> Float[Array, "b _ _ c"]:
        """Resize images to ``input_size``, if there is one: bilinear, antialiased when shrinking."""
        del key
        check_images("images", images)
        if self.input_size is None or images.shape[1:3] == self.input_size:
            return images
        shape = (images.shape[0], *self.input_size, images.shape[3])
        return jax.image.resize(images, shape, "bilinear", antialias=True)

    def raw(self, pixels: Images) -> Scores:
        """Return ``slope · √(n₀/n) · f + offset`` of prepared images."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        f = self.net(pixels - GREY)
        return self.slope * size_factor((pixels.shape[1], pixels.shape[2])) * f + self.offset[0]

    def features(self, pixels: Images, names: Sequence[str]) -> dict[str, Array]:
        """Return, by name, ``level0``, ``level1`` … (maps) and ``energies`` (``b k c``) of prepared images."""
        levels = self.net.levels(pixels - GREY)
        found = {f"level{number}": level for number, level in enumerate(levels)}
        if "energies" in names:
            found["energies"] = self.net.energies(pixels - GREY)
        for name in names:
            check_choice("names", name, found)
        return {name: found[name] for name in names}

    def constant(self, image_size: tuple[int, int]) -> float:
        """Return the Lipschitz constant of the score in the Euclidean norm of the pixels, for images of this size.

        The largest singular values of all matrices are computed and count, which takes about 50 ms.

        Args:
            image_size: (height, width).

        Raises:
            ValueError: ``image_size`` is no pair of whole numbers.
        """
        check_size("image_size", image_size)
        image_size = image_size[0], image_size[1]
        size = self.input_size or image_size
        resized = resize_constant(image_size, size) if size != image_size else 1.0
        return abs(float(self.calibration[0] * self.slope)) * self.net.bound() * size_factor(size) * resized

    def certificate(self, epsilon: float, image_size: tuple[int, int], *, norm: str = "linf") -> float:
        """Return the largest change of any score by a perturbation with norm at most ``epsilon``.

        In ℓ∞ it is that of the Euclidean ball around the cube: ``ε · √(3·h·w)``.

        Args:
            epsilon: radius, in units of [0, 1] pixels.
            image_size: (height, width).
            norm: ``"l2"`` or ``"linf"``.

        Raises:
            ValueError: an unknown norm, a radius that is no number >= 0, or ``image_size`` is no pair of whole numbers.

        >>> model = LipschitzIQA(channels=(12,), depth=(1,), slope=0.02, rngs=nnx.Rngs(0))
        >>> round(model.certificate(2 / 255, (256, 256)), 4), round(model.certificate(0.5, (256, 256), norm="l2"), 4)
        (0.0696, 0.01)
        """
        check_choice("norm", norm, ("l2", "linf"))
        check_option("epsilon", epsilon)
        radius = epsilon * (math.sqrt(3 * math.prod(image_size)) if norm == "linf" else 1.0)
        return radius * self.constant(image_size)

    def certified_interval(self, images: Images, epsilon: float, *, norm: str = "linf") -> tuple[Scores, Scores]:
        """Return the lowest and the highest score of all images within ``epsilon`` of each image, by one pass.

        Args:
            images: ``b h w 3`` in [0, 1].
            epsilon: radius, in units of [0, 1] pixels.
            norm: ``"l2"`` or ``"linf"``.

        >>> model = LipschitzIQA(channels=(12,), depth=(1,), slope=0.02, rngs=nnx.Rngs(0))
        >>> low, high = model.certified_interval(jnp.zeros((1, 16, 16, 3)), 0.5, norm="l2")
        >>> round(float((high - low)[0]), 3)  # 2 · 0.5 · 0.02 · 256/16
        0.32
        """
        scores = self(images)
        change = self.certificate(epsilon, (images.shape[1], images.shape[2]), norm=norm)
        return scores - change, scores + change


LIPSCHITZ_IQA_SPEC = ModelSpec(
    metric=LipschitzIQA,
    rules=(),
    title="Lipschitz IQA",
    paper="ours; its layers: arXiv:2601.18513",
    protocol="native size, one pass",
    results="none known for KonIQ-10k",
    licence="no published weights",
)
