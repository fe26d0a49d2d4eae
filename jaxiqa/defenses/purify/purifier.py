"""What every purifier promises, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from jaxiqa.checks import check_choice
from jaxiqa.types import Images

VARIANTS = ("paper", "benchmark")
Number = int | float | np.integer | np.floating | Real[Array, "..."]  # an array where it is traced or swept over


def check_key(name: str, key: Any) -> None:
    """Raise ``ValueError`` unless ``key`` is one random key.

    >>> check_key("random_noise", None)
    Traceback (most recent call last):
    ValueError: random_noise needs one key, as of jax.random.key(0); got None
    """
    if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(f"{name} needs one key, as of jax.random.key(0); got {key!r}")


def keep_size_of(purifier: Any) -> None:
    """For ``__post_init__``: check ``variant``, and let it decide ``keep_size`` where that is None.

    >>> from jaxiqa.defenses.purify.resize import Resize
    >>> Resize().keep_size, Resize(variant="benchmark").keep_size
    (True, False)
    """
    check_choice("variant", purifier.variant, VARIANTS)
    if purifier.keep_size is None:
        object.__setattr__(purifier, "keep_size", purifier.variant == "paper")


def identity(images: Images, key: Any = None) -> Images:
    """The surrogate of purifiers whose output is close to their input.

    >>> float(identity(jnp.zeros((1, 1, 1, 3))).sum())
    0.0
    """
    return images


def check_drawn(drawn: Array, images: Images) -> Array:
    """``drawn``, refused unless it has the shape of ``images``.

    >>> check_drawn(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: network returned shape (1, 4, 4, 1) for images (1, 4, 4, 3); expected the same
    """
    if drawn.shape != images.shape:
        raise ValueError(f"network returned shape {drawn.shape} for images {images.shape}; expected the same")
    return drawn
