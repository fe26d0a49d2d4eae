"""What every purifier promises, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from jaxiqa.checks import check_choice, check_images
from jaxiqa.types import Images

VARIANTS = ("paper", "benchmark")
Number = int | float | np.integer | np.floating | Real[Array, "..."]  # an array where it is traced or swept over


def check_purified(images: Images, *, minimum: int = 1) -> None:
    """Raise ``ValueError`` unless ``images`` is a batch of RGB in [0, 1]; values are not looked at while tracing.

    >>> check_purified(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1]
    """
    check_images("images", images, minimum=minimum)
    if images.shape[-1] != 3:
        raise ValueError(f"images has shape {images.shape}; expected three channels, R G B")
    if not len(images):
        raise ValueError(f"images has shape {images.shape}; expected at least one image")
    if not is_traced(images):
        values = np.asarray(images)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images has values in [{low}, {high}]; expected [0, 1]")


def check_key(name: str, key: Any) -> None:
    """Raise ``ValueError`` unless ``key`` is one random key.

    >>> check_key("random_noise", None)
    Traceback (most recent call last):
    ValueError: random_noise needs one key, as of jax.random.key(0); got None
    """
    if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(f"{name} needs one key, as of jax.random.key(0); got {key!r}")


def is_traced(value: Any) -> bool:
    """Whether this is a tracer, so that its value cannot be looked at.

    >>> is_traced(1.0)
    False
    """
    return isinstance(value, jax.core.Tracer)


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
