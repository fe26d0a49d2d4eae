"""What purifiers that are given a network share."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxiqa.checks import check_images
from jaxiqa.types import Images


def as_pytree(network: Callable[..., Any]) -> Callable[..., Any]:
    """The network as an argument that ``jit`` accepts: itself if it is a pytree, else wrapped.

    A wrapped one is compiled once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    plain = callable(network) and jax.tree_util.all_leaves([network])
    return jax.tree_util.Partial(network) if plain else network


def check_pictures(images: Any) -> None:
    """Raise ``ValueError`` unless ``images`` is an RGB batch in [0, 1]; values are not looked at while tracing.

    >>> check_pictures(jax.numpy.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1]
    """
    check_images("images", images)
    if images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images has shape {tuple(images.shape)}; expected at least one RGB image, b h w 3")
    if not isinstance(images, jax.core.Tracer):
        values = np.asarray(images)  # not JAX: under an outer jit that would trace even a constant
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images has values in [{low}, {high}]; expected [0, 1]")


def check_drawn(drawn: Array, images: Images) -> Array:
    """``drawn``, refused unless it has the shape of ``images``.

    >>> check_drawn(jax.numpy.zeros((1, 4, 4, 1)), jax.numpy.zeros((1, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: network returned shape (1, 4, 4, 1) for images (1, 4, 4, 3); expected the same
    """
    if drawn.shape != images.shape:
        raise ValueError(f"network returned shape {drawn.shape} for images {images.shape}; expected the same")
    return drawn


def resize(images: Images, size: tuple[int, int], *, antialias: bool = True) -> Float[Array, "b h2 w2 c"]:
    """Bilinear, smoothed first where that shrinks them unless told otherwise; at their own size as they are.

    >>> resize(jax.numpy.zeros((1, 4, 6, 3)), (2, 3)).shape
    (1, 2, 3, 3)
    """
    if images.shape[1:3] == tuple(size):
        return images
    return jax.image.resize(images, (len(images), *size, images.shape[-1]), "bilinear", antialias=antialias)
