"""The state of the generator of random programs, and predicates of values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 400  # values in an array


Step = Callable[[list], jax.Array]


class Draws:
    """State of the generator: random numbers, and the shapes and types of the values so far."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.values: list[jax.ShapeDtypeStruct] = []

    def pick(self, fits=lambda v: True) -> int:
        """Draw the index of a value; late values are more likely."""
        places = [i for i, v in enumerate(self.values) if fits(v)]
        if not places:
            raise LookupError
        weights = 1.5 ** np.arange(len(places))
        return int(self.random.choice(places, p=weights / weights.sum()))

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def numbers(self, *shape: int, like=None) -> np.ndarray:
        """Normal numbers; some constant, some sparse; complex where ``like`` is."""
        kind = self.random.random()
        x = self.random.normal(size=shape)
        x = (
            np.full(shape, self.random.normal())
            if kind < 0.15
            else x * (self.random.random(shape) < 0.5)
            if kind < 0.3
            else x
        )
        if like is not None and is_complex(like):
            x = x + 1j * self.random.normal(size=shape)
        return x

    def one_of(self, *options):
        return options[self.integer(0, len(options) - 1)]


def is_complex(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.complexfloating)


def real(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.floating)


def inexact(v) -> bool:
    return jnp.issubdtype(v.dtype, jnp.inexact)


def has_axes(v) -> bool:
    return inexact(v) and v.ndim > 0


def maps(v) -> bool:
    return real(v) and v.ndim == 4 and min(v.shape) > 0


def typed(constant: np.ndarray, x) -> jax.Array:
    """A constant in the type of ``x``."""
    return jnp.asarray(constant, jnp.result_type(x))
