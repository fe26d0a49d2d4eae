"""A perceptual distance as a callable pytree, and the description of its published weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxiqa.core.images import check_images
from jaxiqa.core.pytrees import STATIC, CallableModule, static
from jaxiqa.core.types import Images, Scores
from jaxiqa.pretrained.files import WeightsUrl
from jaxiqa.pretrained.key_map import Rule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Distance(CallableModule):
    """``distance(reference, distorted) -> b``: 0 for equal images (up to rounding), larger is worse.

    Both are RGB images ``b h w 3`` in [0, 1] of the same shape, of any size that the network accepts; image i is
    compared to image i. It is differentiable in both. Pass it to jitted functions as an argument: distances of the same
    kind share every compiled program.

    It is built from a module with ``features(images) -> {name: map}``, ``compare(features, features) -> b`` and
    ``minimum``, the shortest side allowed: ``Distance(*flax.nnx.split(module))``.

    Raises:
        ValueError: the shapes differ, an image is not float, or a side is too short; the message says what is allowed.

    >>> from jaxiqa.networks import LPIPS
    >>> distance = nnx.eval_shape(lambda: Distance(*nnx.split(LPIPS("alexnet", rngs=nnx.Rngs(0)))))
    >>> images = jax.ShapeDtypeStruct((2, 40, 33, 3), "float32")
    >>> jax.eval_shape(lambda distance, x, y: distance(x, y), distance, images, images).shape
    (2,)
    """

    fresh: bool = static(False)
    """Whether the weights are random, from `jaxiqa.networks.build`; attacks and defenses raise an error for those."""

    def __call__(self, reference: Images, distorted: Images) -> Scores:
        return self.to(reference)(distorted)

    def to(self, reference: Images) -> "DistanceTo":
        """Return a function with ``distance.to(reference)(distorted)`` equal, which computes the reference's features
        only once."""
        model = self.module()
        check_images("reference", reference, minimum=model.minimum)
        return DistanceTo(self, reference.shape, model.features(reference))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DistanceTo:
    """The distance to fixed images, ``b h w 3 -> b``; a pytree, built by `Distance.to`."""

    distance: Distance
    shape: tuple[int, ...] = field(metadata=STATIC)
    features: dict[str, Array]

    def __call__(self, distorted: Images) -> Scores:
        if distorted.shape != self.shape:
            raise ValueError(f"distorted has shape {distorted.shape}, reference has {self.shape}; expected the same")
        check_images("distorted", distorted)
        model = self.distance.module()
        return model.compare(self.features, model.features(distorted))


@dataclass(frozen=True)
class NetworkSpec:
    """One entry of `jaxiqa.networks.NETWORKS`.

    Attributes:
        build: ``build(*, rngs, **options) -> module``, at its published size by default.
        rules: (`jaxiqa.pretrained.key_map`) from the published parameter names, including those of a backbone.
        title, paper: name as in the literature, arXiv id.
        licence: of the published weights, without a backbone's.
        weights: name -> where the authors published them.
        wrap: ``wrap(*flax.nnx.split(module))`` is what users get: `Distance` for a distance, else
            `jaxiqa.networks.network.Network`.
        options: reads options of ``build`` from a checkpoint's arrays; it may raise `ValueError`.
    """

    build: Callable[..., nnx.Module]
    rules: Sequence[Rule]
    title: str
    paper: str
    licence: str
    weights: Mapping[str, WeightsUrl]
    wrap: Callable[..., Any] = Distance
    options: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] = lambda arrays: {}


def vector(array: np.ndarray) -> np.ndarray:
    """Convert one number per channel, ``1 c 1 1`` or ``c`` -> ``c``: a layout of `jaxiqa.pretrained.key_map`."""
    return array.reshape(-1) if array.shape == (1, array.size, 1, 1) else array
