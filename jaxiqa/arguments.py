"""What functions of pictures are given: pictures, callables that ``jit`` takes as arguments, and random keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxiqa.checks import check_images
from jaxiqa.types import PRNGKey

Keys = PRNGKey | Key[Array, " b"]


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its value cannot be looked at.

    >>> is_traced(1.0), jax.jit(lambda x: is_traced([x]))(1.0).item()
    (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as an argument that ``jit`` accepts.

    A pytree that can be called (`jax.tree_util.Partial`, a module, a registered dataclass) is passed on: its
    leaves are traced, so models of one structure share one compiled program. Any other callable is wrapped, and
    compiled once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    plain = callable(function) and jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


def trained(name: str, network: Any) -> Callable[..., Any]:
    """A network as `as_pytree` makes it, for what uses it without training it.

    Args:
        name: what the caller calls it.
        network: a function or a pytree that can be called.

    Raises:
        ValueError: it cannot be called, or says of itself (``network.fresh``) that its weights are random.

    >>> trained("denoise", "dncnn")
    Traceback (most recent call last):
    ValueError: denoise='dncnn' cannot be called; give the network itself, such as jaxiqa.models.auxiliary.load(...)
    """
    if not callable(network):
        given = repr(network) if isinstance(network, str | None) else type(network).__name__
        raise ValueError(
            f"{name}={given} cannot be called; give the network itself, such as jaxiqa.models.auxiliary.load(...)"
        )
    if getattr(network, "fresh", False):
        raise ValueError(f"{name} has random weights; load trained ones with jaxiqa.models.auxiliary.load(...)")
    return as_pytree(network)


def check_pictures(images: Any, *, minimum: int = 1, channels: int | None = None) -> None:
    """Raise ``ValueError`` unless ``images`` is a batch in [0, 1]; values are not looked at while tracing.

    >>> check_pictures(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1]
    """
    check_images("images", images, minimum=minimum)
    shape = tuple(images.shape)
    if channels is not None and shape[3] != channels:
        raise ValueError(f"images has shape {shape}; expected {channels} channels, b h w {channels}")
    if not len(images):
        raise ValueError(f"images has shape {shape}; expected at least one image")
    if not is_traced(images):
        values = np.asarray(images)  # not jnp: under an outer jit that would trace even a constant
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images has values in [{low}, {high}]; expected [0, 1]")


def image_keys(key: Keys, count: int) -> Key[Array, " b"]:
    """One key per image: ``fold_in(key, i)`` for the image at index ``i`` of the batch.

    Attacks and certifiers also take the keys themselves, one per image, so that a part of a batch can be run alone with
    the same result: ``attack(score_fn, images[3:5], image_keys(key, len(images))[3:5])``.

    Args:
        key: one random key, or already one per image.
        count: number of images.

    Returns:
        ``count`` keys.

    Raises:
        ValueError: not a key of `jax.random.key`, or not as many keys as images.

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
