"""Variables of modules that are neither trained nor running statistics."""

import jax
from flax import nnx
from jaxtyping import Array


class Constant(nnx.Variable):
    """An array that is part of a layer but never trains; saved with the parameters. Read it by `constant`."""


def constant(variable: Constant) -> Array:
    """Its value, with a gradient of zero: an optimiser that is given all variables leaves it alone."""
    return jax.lax.stop_gradient(variable[...])
