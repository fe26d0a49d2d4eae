"""ReLU with a learned slope."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def prelu(x: Float[Array, "b h w c"], slope: Float[Array, "#c"]) -> Float[Array, "b h w c"]:
    """Return ``max(x, 0) + slope · min(x, 0)``, one slope per channel or one for all.

    >>> prelu(jnp.array([-2.0, 3.0]).reshape(1, 1, 1, 2), jnp.array([0.25])).ravel().tolist()
    [-0.5, 3.0]
    """
    return jnp.where(x >= 0, x, slope * x)
