"""What lies between a batch and the one image that an attack is written for: keys, gradients, checks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxiqa.attacks.loop import is_traced
from jaxiqa.checks import check_images
from jaxiqa.types import Images, PRNGKey, Scores

Keys = PRNGKey | Key[Array, " b"]


def image_keys(key: Keys, count: int) -> Key[Array, " b"]:
    """One key per image: ``fold_in(key, i)`` for the image at index ``i`` of the batch.

    Attacks also take the keys themselves, one per image, so that a part of a batch can be run alone with the
    same result: ``attack(score_fn, images[3:5], image_keys(key, len(images))[3:5])``.

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
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key has dtype {key.dtype}; expected one made by jax.random.key")
    if key.ndim == 0:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"key has shape {key.shape}; expected () or one key per image, ({count},)")
    return key


def as_pytree(score_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The score function as an argument that ``jit`` accepts.

    A pytree that can be called (`jax.tree_util.Partial`, a module, a registered dataclass) is passed on: its
    leaves are traced, so models of one structure share one compiled attack. Any other callable is wrapped, and
    compiled once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    return jax.tree_util.Partial(score_fn) if jax.tree_util.all_leaves([score_fn]) else score_fn


def checked_scores(score_fn: Callable[..., Any], images: Images) -> Scores:
    """``score_fn(images)``, refused by name unless it is one score per image.

    >>> checked_scores(lambda x: x.mean(), jnp.zeros((2, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: score_fn returned shape () for 2 images; expected (2,), one score per image
    """
    scores = score_fn(images)
    if scores.shape != images.shape[:1]:
        expected = f"({len(images)},), one score per image"
        raise ValueError(f"score_fn returned shape {scores.shape} for {len(images)} images; expected {expected}")
    return scores


def per_image_gradient(objective: Callable[..., Any], variables: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """The gradient of each image's objective by its own variables.

    The gradient of the sum, which is the same thing as long as images are scored independently. The metric sees
    the batch as it does when it scores; ``vmap(grad(one image))`` is as fast (8 images 96x96, three convolutions,
    2 CPU cores: 26 against 28 ms) with equal values, but asks every score function, callbacks and sharded ones
    included, for a batching rule.

    Where the objective or its gradient is not finite, the image's whole gradient is NaN: the attacked image is then
    NaN, which `check_attacked` reports, instead of a picture that merely failed to move.

    Args:
        objective: ``b *shape -> b``.
        variables: what is differentiated by, ``b *shape``.

    Returns:
        The gradients, ``b *shape``.

    >>> per_image_gradient(lambda x: (x**2).sum(1), jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]))
    Array([[ 2.,  4.],
           [nan, nan]], dtype=float32)
    """

    return values_and_gradients(objective, variables)[1]


def values_and_gradients(
    objective: Callable[..., Any], variables: Float[Array, "b *shape"]
) -> tuple[Scores, Float[Array, "b *shape"]]:
    """Each image's objective beside its gradient, NaN as in `per_image_gradient`.

    >>> values, gradients = values_and_gradients(lambda x: (x**2).sum(1), jnp.array([[1.0, 2.0], [jnp.inf, 0.0]]))
    >>> values.tolist(), gradients.tolist()
    ([5.0, nan], [[2.0, 4.0], [nan, nan]])
    """

    def total(variables):
        values = objective(variables)
        return values.sum(), values

    (_, values), gradients = jax.value_and_grad(total, has_aux=True)(variables)
    finite = jnp.isfinite(gradients).reshape(len(gradients), -1).all(1) & jnp.isfinite(values)
    wide = finite.reshape(-1, *[1] * (gradients.ndim - 1))
    return jnp.where(finite, values, jnp.nan), jnp.where(wide, gradients, jnp.nan)


def check_clean(images: Images, *, minimum: int = 1) -> None:
    """Raise ``ValueError`` unless ``images`` is a batch in [0, 1]; values are not looked at while tracing.

    >>> check_clean(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1]
    """
    check_images("images", images, minimum=minimum)
    if not len(images):
        raise ValueError(f"images has shape {images.shape}; expected at least one image")
    if not is_traced(images):
        values = np.asarray(images)  # not jnp: under an outer jit that would trace even a constant
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images has values in [{low}, {high}]; expected [0, 1]")


def check_attacked(attacked: Float[Array, "*e b h w c"]) -> None:
    """Raise ``ValueError`` if an attacked image is not finite, unless its values are traced.

    >>> check_attacked(jnp.full((1, 4, 4, 3), jnp.nan))
    Traceback (most recent call last):
    ValueError: score_fn gave non-finite scores or gradients during the attack on images 0 of 1
    """
    if is_traced(attacked):
        return
    failed = ~np.asarray(jnp.isfinite(attacked).all((-3, -2, -1)))
    if failed.any():
        failed = failed.reshape(-1, failed.shape[-1]).any(0)  # over the ε of a sweep
        names = ", ".join(map(str, np.flatnonzero(failed)))
        raise ValueError(
            f"score_fn gave non-finite scores or gradients during the attack on images {names} of {failed.size}"
        )
