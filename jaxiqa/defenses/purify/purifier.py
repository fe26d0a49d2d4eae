"""Checks and conversions shared by all purifiers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.types import Images

VARIANTS = ("paper", "benchmark")
Number = int | float | np.integer | np.floating | Real[Array, "..."]  # an array if traced or swept over


def check_strength(
    name: str,
    value: Any,
    low: int | float,
    high: int | float = float("inf"),
    *,
    open_low: bool = False,
    whole: bool = False,
) -> None:
    """Check that a strength is a number, or an array of numbers, in its range; else ``ValueError``; tracers pass.

    >>> check_strength("quality", jnp.array([50, 500]), 1, 100, whole=True)
    Traceback (most recent call last):
    ValueError: quality=500 is outside [1, 100]
    >>> check_strength("quality", "50", 1, 100)
    Traceback (most recent call last):
    ValueError: quality='50' is not allowed; expected a number
    """
    if is_traced(value) or type(value) is object or isinstance(value, jax.ShapeDtypeStruct | jax.core.ShapedArray):
        return  # placeholders that JAX puts in place of numbers
    if isinstance(value, bool) or not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise ValueError(f"{name}={value!r} is not allowed; expected a number")
    for one in np.ravel(np.asarray(value)).tolist():
        check_number(name, one, low, high, open_low=open_low)
        if whole and one != int(one):
            raise ValueError(f"{name}={one!r} is not allowed; expected a whole number")


def check_side(name: str, value: Any) -> None:
    """Check that ``value`` is a whole number of pixels or steps, at least 1; otherwise raise ``ValueError``.

    >>> check_side("size", 2.5)
    Traceback (most recent call last):
    ValueError: size=2.5 is not allowed; expected a whole number
    """
    if isinstance(value, np.ndarray | jax.Array):
        raise ValueError(f"{name}={value!r} is not allowed; expected a number")
    check_strength(name, value, 1, whole=True)


def check_size(name: str, size: Any) -> None:
    """Check that ``size`` is None or (height, width); otherwise raise ``ValueError``.

    >>> check_size("size", 256)
    Traceback (most recent call last):
    ValueError: size=256 is not allowed; expected (height, width), or None
    """
    if size is None:
        return
    if not isinstance(size, tuple) or len(size) != 2:
        raise ValueError(f"{name}={size!r} is not allowed; expected (height, width), or None")
    for side in size:
        check_side(name, side)


def computed(images: Images, function: Callable[[Images], Array]) -> Array:
    """Compute ``function`` in float32 (float64 stays float64) and convert the result to the type of the images.

    So purifiers of float16 or bfloat16 images use the same noise and arithmetic as for float32, and round once.

    >>> computed(jnp.full((1, 2, 2, 3), 0.3, jnp.bfloat16), lambda x: x / 3).dtype.name
    'bfloat16'
    """
    return function(images.astype(jnp.promote_types(images.dtype, jnp.float32))).astype(images.dtype)


def check_key(name: str, key: Any) -> None:
    """Check that ``key`` is one random key; otherwise raise ``ValueError``.

    >>> check_key("random_noise", None)
    Traceback (most recent call last):
    ValueError: random_noise needs one key, such as jax.random.key(0); got None
    """
    if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        raise ValueError(f"{name} needs one key, such as jax.random.key(0); got {key!r}")


def keep_size_of(purifier: Any) -> None:
    """Check ``variant``; if ``keep_size`` is None, set it by the variant; for ``__post_init__``.

    >>> from jaxiqa.defenses.purify.resize import Resize
    >>> Resize().keep_size, Resize(variant="benchmark").keep_size
    (True, False)
    """
    check_choice("variant", purifier.variant, VARIANTS)
    if purifier.keep_size is None:
        object.__setattr__(purifier, "keep_size", purifier.variant == "paper")


def identity(images: Images, key: Any = None) -> Images:
    """Return the images: the surrogate of purifiers whose output is close to their input.

    >>> float(identity(jnp.zeros((1, 1, 1, 3))).sum())
    0.0
    """
    return images


def check_drawn(drawn: Array, images: Images) -> Array:
    """Check that ``drawn`` has the shape of ``images`` and return it.

    >>> check_drawn(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: network returned shape (1, 4, 4, 1) for images (1, 4, 4, 3); expected the same
    """
    if drawn.shape != images.shape:
        raise ValueError(f"network returned shape {drawn.shape} for images {images.shape}; expected the same")
    return drawn
