"""Attacks on metrics whose pixel range is not [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.attacks.engine.gradients import finish
from jaxiqa.attacks.engine.host_metric import External
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.images import check_images
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import as_pytree, is_traced
from jaxiqa.core.types import Images, ScoreFn, Scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InBounds:
    """Attack a metric whose pixels lie in [``low``, ``high``]; given and returned images are in that range.

    The attack itself runs in [0, 1] on ``x ↦ f(low + (high − low) x)``. So its strength is in units of the whole
    range: ε = 8 / 255 is eight grey levels for any bounds.

    Args:
        attack: any attack.
        low, high: bounds of a pixel value.

    Raises:
        ValueError: low ≥ high, or an image has values outside the bounds.

    >>> from jaxiqa.attacks.fgsm import FGSM
    >>> images = jnp.full((1, 2, 3, 3), 100.0)
    >>> attacked = InBounds(FGSM(8 / 255), 0.0, 255.0)(lambda x: x.mean((1, 2, 3)), images, jax.random.key(0))
    >>> round(float(attacked.max()), 2)
    108.0
    """

    attack: Any
    low: Number
    high: Number

    def __post_init__(self) -> None:
        seen = isinstance(self.low, int | float) and isinstance(self.high, int | float)
        if seen and not -inf < self.low < self.high < inf:
            raise ValueError(f"bounds=({self.low}, {self.high}) is not allowed; expected low < high")

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        return self.through(lambda score_fn, images: self.attack(score_fn, images, key), score_fn, images)

    def through(self, run: Callable[[ScoreFn, Images], Any], score_fn: ScoreFn, images: Images) -> Any:
        """Call ``run(score_fn, images)`` with images in [0, 1]; convert its images back to [low, high]."""
        check_images("images", images, channels=3)
        if not is_traced(images):
            values = np.asarray(images)
            low, high = values.min(), values.max()
            if not (low >= self.low and high <= self.high):
                raise ValueError(f"images has values in [{low}, {high}]; expected [{self.low}, {self.high}]")
        width, given = self.high - self.low, jnp.asarray(images)
        images = given.astype(jnp.promote_types(given.dtype, jnp.float32))
        inside = jnp.clip((images - self.low) / width, 0, 1)  # rounding may leave the range by an ulp
        found = run(self._scaled(score_fn), inside)
        return finish(jnp.clip(self.low + width * found, self.low, self.high), given)

    def _scaled(self, score_fn: ScoreFn) -> Any:
        """Return the metric as a function of images in [0, 1]."""
        if isinstance(score_fn, External):
            return replace(score_fn, fn=lambda pixels: score_fn.fn(self.low + (self.high - self.low) * pixels))
        return _Scaled(as_pytree(score_fn), self.low, self.high - self.low)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Scaled:
    score_fn: Any
    low: Number
    width: Number

    def __call__(self, images: Images) -> Scores:
        return self.score_fn(self.low + self.width * images)
