"""Where pixels go: rotation by any angle, and patterns repeated over an image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.core.images import check_images
from jaxiqa.core.precision import at_least_float32


@jax.jit
@at_least_float32
def rotate(images: Float[Array, "b h w c"], degrees: float | Float[Array, ""]) -> Float[Array, "b h w c"]:
    """Rotate images counter-clockwise about their centre; each pixel takes the nearest one's value, or 0 outside.

    With X, Y measured from the centre, a pixel is sampled at ``(cos a · X − sin a · Y, sin a · X + cos a · Y)``.

    Args:
        images: of any size.
        degrees: one angle a for all images.

    Raises:
        ValueError: bad images.

    >>> rotate(jnp.arange(4.0).reshape(1, 2, 2, 1), 90.0)[0, :, :, 0].tolist()
    [[1.0, 3.0], [0.0, 2.0]]
    """
    check_images("images", images)
    b, h, w, c = images.shape
    angle = jnp.deg2rad(jnp.asarray(degrees, images.dtype))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x = jnp.arange(w, dtype=images.dtype) + 0.5 - w / 2
    y = (jnp.arange(h, dtype=images.dtype) + 0.5 - h / 2)[:, None]
    column = jnp.round(cos * x - sin * y + (w / 2 - 0.5)).astype(int)
    row = jnp.round(sin * x + cos * y + (h / 2 - 0.5)).astype(int)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    place = jnp.where(inside, row * w + column, h * w).ravel()
    place = jax.lax.optimization_barrier(place)  # computed once, not for every image and channel
    pixels = images.reshape(b, h * w, c)
    return jnp.take(pixels, place, axis=1, mode="fill", fill_value=0).reshape(images.shape)


def tile(pattern: Float[Array, "*b h w c"], height: int, width: int) -> Float[Array, "*b height width c"]:
    """Repeat a pattern down and to the right from the top left corner, and cut it off at ``height`` × ``width``.

    Args:
        pattern: values of any range; one pattern or several.
        height: rows of the result, more or fewer than the pattern has.
        width: columns of the result.

    >>> tile(jnp.arange(3.0).reshape(1, 3, 1), 2, 5)[..., 0].tolist()
    [[0.0, 1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0, 1.0]]
    """
    h, w = pattern.shape[-3:-1]
    return jnp.tile(pattern, (-(-height // h), -(-width // w), 1))[..., :height, :width, :]
