"""Constants of modules: variables that are neither trained nor running statistics."""

import jax
from flax import nnx
from jaxtyping import Array


class Constant(nnx.Variable):
    """An array of a layer that is never trained; saved with the parameters. Read it by `constant`."""


def constant(variable: Constant) -> Array:
    """Return the value with a gradient of zero, so that an optimiser of all variables does not change it."""
    return jax.lax.stop_gradient(variable[...])
