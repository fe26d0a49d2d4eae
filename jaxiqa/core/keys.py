"""Random keys: one for a batch or one per image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxiqa.core.types import PRNGKey

Keys = PRNGKey | Key[Array, " b"]


def image_keys(key: Keys, count: int) -> Key[Array, " b"]:
    """Return one key per image: ``fold_in(key, i)`` for the image at index ``i`` of the batch.

    Attacks and certifiers also take one key per image. So a part of a batch can be run separately with the same
    result: ``attack(score_fn, images[3:5], image_keys(key, len(images))[3:5])``.

    Args:
        key: one random key, or one per image, which are returned unchanged.
        count: number of images.

    Returns:
        ``count`` keys.

    Raises:
        ValueError: ``key`` is not made by `jax.random.key`, or the number of keys and images differ.

    >>> image_keys(jax.random.key(0), 3).shape
    (3,)
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key={key!r} is not allowed; expected one made by jax.random.key")
    if key.ndim == 0:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"key has shape {key.shape}; expected () or one key per image, ({count},)")
    return key
