"""Threat models: the set of images an attack may return, its projection, steepest step and random start.

All functions take one image ``h w c``; the attacks vmap them.
"""

from dataclasses import KW_ONLY, dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.pytrees import static
from jaxiqa.core.types import PRNGKey

NORMS = ("linf", "l2")
Image = Float[Array, "h w c"]
Number = int | float | np.floating | Float[Array, "..."]  # an array if traced or swept over

# Relative margin for float32 rounding when the projected image is computed and stored.
_L2_MARGIN = 2e-7


def project_linf(x: Image, clean: Image, epsilon: Number, *, low: Number = 0.0, high: Number = 1.0) -> Image:
    """Return the image nearest to ``x`` with ``|y - clean| <= epsilon`` in every value and ``low <= y <= high``.

    ``y = clip(clip(x, clean - epsilon, clean + epsilon), low, high)``

    Args:
        x: any image, ``h w c``.
        clean: centre of the ball, ``h w c`` in ``[low, high]``.
        epsilon: radius in pixel units, >= 0.
        low, high: bounds of a pixel value.

    Returns:
        The projection, ``h w c``.

    >>> project_linf(jnp.full((1, 1, 3), 0.9), jnp.full((1, 1, 3), 0.5), 0.25)[0, 0].tolist()
    [0.75, 0.75, 0.75]
    """
    return jnp.clip(jnp.clip(x, clean - epsilon, clean + epsilon), low, high)


def project_l2(x: Image, clean: Image, epsilon: Number, *, low: Number = 0.0, high: Number = 1.0) -> Image:
    """Return the image nearest to ``x`` with both ``‖y - clean‖₂ <= epsilon`` and ``low <= y <= high``.

    The Lagrange conditions give ``y = clip(clean + s (x - clean), low, high)`` with the largest ``s`` in (0, 1]
    that keeps the norm. The norm grows with ``s``, so bisection finds it. Scaling into the ball and then clipping
    gives a point of both sets too, but not the nearest one: with saturated pixels it is below the optimum of a
    linear score.

    Args:
        x: any image, ``h w c``.
        clean: centre of the ball, ``h w c`` in ``[low, high]``.
        epsilon: radius: the Euclidean norm over all values of the image, >= 0.
        low, high: bounds of a pixel value.

    Returns:
        The projection, ``h w c``; its norm never exceeds ``epsilon``.

    >>> y = project_l2(jnp.array([[[2.0, 0.9]]]), jnp.full((1, 1, 2), 0.5), 0.58)
    >>> print(y.round(3))  # the first value stops at 1 and leaves the rest of the norm to the second
    [[[1.    0.794]]]
    """
    step = x - clean
    radius = epsilon * (1 - _L2_MARGIN)

    def at(scale):
        return jnp.clip(clean + scale * step, low, high)

    def halve(_, bracket):
        inside, outside = bracket
        middle = (inside + outside) / 2
        fits = jnp.linalg.norm(at(middle) - clean) <= radius
        return jnp.where(fits, middle, inside), jnp.where(fits, outside, middle)

    # Clipping only shortens, so the scale that fits the ball without clipping is a feasible start.
    length = jnp.linalg.norm(step)
    inside = jnp.minimum(1.0, radius / jnp.where(length == 0, 1.0, length))
    inside, _ = jax.lax.fori_loop(0, 30, halve, (inside, jnp.ones_like(inside)))
    unchanged = jnp.linalg.norm(at(1.0) - clean) <= radius
    return at(jnp.where(unchanged, 1.0, inside))


def steepest_step(gradient: Image, norm: str) -> Image:
    """Return the unit step that raises a linear score most: ``sign(g)`` for Linf, ``g / ‖g‖₂`` for L2.

    A zero gradient gives a zero step; NaN stays NaN.

    Args:
        gradient: gradient of the score, ``h w c``.
        norm: ``"linf"`` or ``"l2"``.

    Returns:
        A step of unit norm, ``h w c``.

    >>> steepest_step(jnp.array([[[3e-30, -4e-30]]]), "l2")
    Array([[[ 0.6, -0.8]]], dtype=float32)
    """
    if norm == "linf":
        return jnp.sign(gradient)
    peak = jnp.max(jnp.abs(gradient))  # before the norm, so that the squares of a tiny gradient do not underflow
    gradient = gradient / jnp.where(peak == 0, 1.0, peak)
    return gradient / jnp.where(peak == 0, 1.0, jnp.linalg.norm(gradient))


def random_start(
    key: PRNGKey, clean: Image, epsilon: Number, norm: str, *, low: Number = 0.0, high: Number = 1.0
) -> Image:
    """Draw a uniform sample of the ball around ``clean`` and project it into the box.

    Args:
        key: random key of this image.
        clean: centre of the ball, ``h w c`` in ``[low, high]``.
        epsilon: radius, as in the projection of the same norm.
        norm: ``"linf"`` or ``"l2"``.
        low, high: bounds of a pixel value.

    Returns:
        An image in ball and box, ``h w c``.

    >>> x = random_start(jax.random.key(0), jnp.full((4, 4, 3), 0.5), 0.1, "linf")
    >>> bool(abs(x - 0.5).max() <= 0.1)
    True
    """
    if norm == "linf":
        noise = jax.random.uniform(key, clean.shape, clean.dtype, -1, 1)
        return project_linf(clean + epsilon * noise, clean, epsilon, low=low, high=high)
    direction, radius = jax.random.split(key)
    noise = steepest_step(jax.random.normal(direction, clean.shape, clean.dtype), "l2")
    length = jax.random.uniform(radius, dtype=clean.dtype) ** (1 / clean.size)
    return project_l2(clean + epsilon * length * noise, clean, epsilon, low=low, high=high)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ball:
    """All images within ``epsilon`` of a clean image and inside ``[low, high]``; a pytree; the norm is static.

    Args:
        epsilon: radius. Linf: in [0, 1] pixel units, written ``8 / 255``; L2: Euclidean norm over the image.
        norm: ``"linf"`` or ``"l2"``.
        low, high: bounds of a pixel value.

    >>> Ball(8 / 255, norm="l1")
    Traceback (most recent call last):
    ValueError: norm='l1' is not allowed; choose from 'linf', 'l2'
    """

    epsilon: Number
    _: KW_ONLY
    norm: str = static("linf")
    low: Number = 0.0
    high: Number = 1.0

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        check_number("epsilon", self.epsilon, 0.0, 1.0 if self.norm == "linf" else float("inf"), or_none=True)

    def project(self, x: Image, clean: Image) -> Image:
        """Return the nearest allowed image around ``clean``."""
        project = {"linf": project_linf, "l2": project_l2}[self.norm]
        return project(x, clean, self.epsilon, low=self.low, high=self.high)

    def steepest(self, gradient: Image) -> Image:
        """Return the unit step of steepest ascent in this norm."""
        return steepest_step(gradient, self.norm)

    def start(self, key: PRNGKey, clean: Image) -> Image:
        """Return a random allowed image around ``clean``."""
        return random_start(key, clean, self.epsilon, self.norm, low=self.low, high=self.high)
