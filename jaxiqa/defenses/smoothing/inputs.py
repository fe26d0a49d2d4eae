"""What is asked of the images and the key before any noise is drawn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxiqa.checks import check_images, check_number
from jaxiqa.types import Images, PRNGKey


def check_whole(name: str, value: Any, low: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number >= ``low``.

    >>> check_whole("n", 10.5, 1)
    Traceback (most recent call last):
    ValueError: n=10.5 is not allowed; expected an integer
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed; expected an integer")
    check_number(name, value, low)


def check_pictures(images: Images) -> None:
    """Raise ``ValueError`` unless ``images`` is a batch ``b h w 3`` in [0, 1] whose values can be looked at.

    >>> check_pictures(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1]
    """
    check_images("images", images)
    if images.shape[3] != 3 or not len(images):
        raise ValueError(f"images has shape {images.shape}; expected at least one RGB image, b h w 3")
    if isinstance(images, jax.core.Tracer):
        raise ValueError("images is traced; certificates are computed on the host, outside jit, vmap and grad")
    values = np.asarray(images)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images has values in [{low}, {high}]; expected [0, 1]")


def image_keys(key: PRNGKey | Key[Array, " b"], count: int) -> Key[Array, " b"]:
    """One key per image: ``fold_in(key, i)`` for image i of the batch, or the keys themselves where there is one each.

    >>> image_keys(jax.random.key(0), 3).shape
    (3,)
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key={key!r} is not allowed; expected one made by jax.random.key")
    if key.ndim == 0:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"key has shape {key.shape}; expected () or one key per image, ({count},)")
    return key
