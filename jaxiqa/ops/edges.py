"""Edges of a single plane. For one image; vmap for batches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.precision import at_least_float32

Plane = Float[Array, "h w"]


@at_least_float32
def luma(image: Float[Array, "h w 3"]) -> Plane:
    """Return ``0.299 R + 0.587 G + 0.114 B``.

    >>> print(luma(jnp.array([[[1.0, 0.0, 0.0]]])))
    [[0.299]]
    """
    return jnp.sum(image * jnp.array([0.299, 0.587, 0.114], image.dtype), -1)


@at_least_float32
def sobel(plane: Plane, axis: int) -> Plane:
    """Return the signed Sobel derivative along ``axis``: ``[−1 0 1]`` along it, ``[1 2 1]`` across; borders repeat.

    >>> sobel(jnp.array([[0.0, 1.0, 2.0]]), 1).tolist()
    [[4.0, 8.0, 4.0]]
    """
    padded = jnp.pad(plane, 1, mode="edge")
    h, w = plane.shape
    if axis == 0:
        change = padded[2:] - padded[:-2]
        return change[:, :w] + 2 * change[:, 1 : w + 1] + change[:, 2:]
    change = padded[:, 2:] - padded[:, :-2]
    return change[:h] + 2 * change[1 : h + 1] + change[2:]


@at_least_float32
def dilate(plane: Plane) -> Plane:
    """Return the largest value of the 5x5 pixels around each, without the four corners.

    >>> dilate(jnp.zeros((7, 7)).at[3, 3].set(1.0)).astype(int)[1:6, 1:6].tolist()
    [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    """
    tall, wide = (jax.lax.reduce_window(plane, -jnp.inf, jax.lax.max, w, (1, 1), "SAME") for w in ((5, 3), (3, 5)))
    return jnp.maximum(tall, wide)
