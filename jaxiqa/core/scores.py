"""Call score functions and check that they return one score per image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.core.pytrees import is_traced
from jaxiqa.core.types import Images, Scores


def checked_scores(score_fn: Callable[..., Any], images: Images) -> Scores:
    """Call ``score_fn`` and check that it returns one score per image.

    Raises:
        TypeError: ``score_fn`` cannot be traced by JAX.
        ValueError: the result has another shape.

    >>> checked_scores(lambda x: x.mean(), jnp.zeros((2, 4, 4, 3)))
    Traceback (most recent call last):
    ValueError: score_fn returned shape () for 2 images; expected (2,), one score per image
    """
    try:
        scores = score_fn(images)
    except (TypeError, AttributeError) as error:
        untraceable = isinstance(error, jax.errors.JAXTypeError) or "Tracer" in str(error)
        if not (is_traced(images) and untraceable):
            raise
        raise TypeError(
            "score_fn cannot be traced by JAX, so it has no gradient. If it uses NumPy or PyTorch, wrap it by "
            "jaxiqa.attacks.from_callable(score_fn) and attack it with NES, Square, Parsimonious, OnePixel or PatchRS"
        ) from error
    if np.shape(scores) != images.shape[:1]:
        expected = f"({len(images)},), one score per image"
        raise ValueError(f"score_fn returned shape {np.shape(scores)} for {len(images)} images; expected {expected}")
    return jnp.asarray(scores)


@jax.jit
def compiled_scores(score_fn: Callable[..., Any], images: Images) -> Scores:
    """Run `checked_scores`, compiled once per structure of a score function that is a pytree.

    >>> from jaxiqa.core.pytrees import as_pytree
    >>> compiled_scores(as_pytree(lambda x: x.mean((1, 2, 3))), jnp.ones((2, 4, 4, 3))).tolist()
    [1.0, 1.0]
    """
    return checked_scores(score_fn, images)
