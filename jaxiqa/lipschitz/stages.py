"""Where along a network a small change of an image grows: its size at each stage, beside that of the signal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.types import Images
from jaxiqa.layers.linear_algebra import full

Maps = Mapping[str, Float[Array, "b ..."]]


@dataclass(frozen=True)
class Growth:
    """The size of a change at one stage, of all images together.

    Attributes:
        change: ‖F(x′) − F(x)‖ / ‖F(x) − F̄‖, Euclidean norms over images, pixels and channels. F̄ is the mean of each
            channel over images and pixels, which a later bias or batch norm removes.
        mean: the same after the mean over pixels, which is what a pooled head reads; the signal is then the deviation
            between images.
    """

    change: float
    mean: float


def growth(features_fn: Callable[[Images], Maps], images: Images, attacked: Any) -> dict[str, Growth]:
    """Return, for each stage, how large the change from ``images`` to ``attacked`` is there.

    A change of a few grey levels is hardly visible beside the signal at the first stages. If it is as large as the
    signal at a late one, nothing behind that stage can separate the two.

    Args:
        features_fn: images to maps by stage, ``b ... c``, such as ``lambda x: model.features(x, names)``; it is
            compiled.
        images: clean images, at least two.
        attacked: the same images, attacked.

    Returns:
        Stage -> its `Growth`, in the order in which JAX sorts the names.

    Raises:
        ValueError: bad images, fewer than two, or ``attacked`` of another shape.

    >>> images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    >>> shifted = jnp.clip(images + 0.1, 0, 1)
    >>> found = growth(lambda x: {"pixels": x, "doubled": 2 * x}, images, shifted)
    >>> round(found["pixels"].change, 1), found["pixels"] == found["doubled"]
    (0.3, True)
    """
    check_unit_images(images)
    check_unit_images(attacked, name="attacked")
    if attacked.shape != images.shape or len(images) < 2:
        raise ValueError(
            f"attacked has shape {tuple(attacked.shape)}, images has {tuple(images.shape)}; expected the same, and at "
            "least two images"
        )

    @jax.jit
    def measure(x: Images, y: Images) -> dict[str, tuple[Array, Array]]:
        before, after = features_fn(x), features_fn(y)
        pairs = {name: (before[name], after[name]) for name in before}
        return {name: (_ratio(a, b), _ratio(_pooled(a), _pooled(b))) for name, (a, b) in pairs.items()}

    found = measure(jnp.asarray(images), jnp.asarray(attacked))
    return {name: Growth(float(change), float(mean)) for name, (change, mean) in found.items()}


def _pooled(x: Array) -> Array:
    return full(x).mean(tuple(range(1, x.ndim - 1)))


def _ratio(before: Array, after: Array) -> Array:
    """Return ‖after − before‖ / ‖before − its mean‖ over all images."""
    before, after = full(before), full(after)
    centre = before.mean(tuple(range(before.ndim - 1)))
    return jnp.linalg.norm(after - before) / jnp.linalg.norm(before - centre)
