"""Dropout whose random numbers belong to the image, so that the number of devices does not change them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxiqa.core.checks import check_number


def dropout(
    x: Float[Array, "b ..."], keys: Key[Array, " b"], rate: float, *, whole_maps: bool = False
) -> Float[Array, "b ..."]:
    """Set values to zero with probability ``rate``, and divide the others by ``1 − rate``.

    Args:
        x: values, one row per image.
        keys: a `jax.random.key` for each image.
        rate: in [0, 1).
        whole_maps: draw once per channel (the last axis), for all pixels of an image.

    Reference: "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.

    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> sorted(set(dropout(jnp.ones((2, 50)), keys, 0.5).ravel().tolist()))
    [0.0, 2.0]
    """
    shape = (*(1 for _ in x.shape[1:-1]), x.shape[-1]) if whole_maps else x.shape[1:]
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


class Dropout(nnx.Module):
    """Apply `dropout` in training; do nothing elsewhere, or before `set_dropout`.

    Args:
        rate: share of the values that become zero, in [0, 1).
        whole_maps: see `dropout`.
    """

    def __init__(self, rate: float, *, whole_maps: bool = False):
        check_number("rate", rate, 0.0, 0.999)
        self.rate, self.whole_maps = rate, whole_maps
        self.keys: Any = None
        self.calls = 0

    @property
    def active(self) -> bool:
        """Return whether values are dropped: `set_dropout` was called, and the rate is above 0."""
        return self.keys is not None and self.rate > 0

    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        if not self.active:
            return x
        self.calls += 1  # a second pass through the same layer draws anew
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.calls)
        return dropout(x, keys, self.rate, whole_maps=self.whole_maps)


def set_dropout(model: nnx.Module, keys: Key[Array, " b"]) -> None:
    """Start the dropout of a model that will score ``b`` images, in place; each layer draws its own numbers."""
    layers = [module for _, module in nnx.iter_modules(model) if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.keys = nnx.data(jax.vmap(jax.random.fold_in, (0, None))(keys, number))
