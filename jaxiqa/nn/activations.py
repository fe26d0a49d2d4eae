"""The activations of the backbones and heads, by name.

A module that uses one has a static attribute ``activation``, a key of `ACTIVATIONS`; its class has the published one.
`jaxiqa.models.swap_activation` sets another.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxiqa.layers.smooth_relu import smooth_relu6
from jaxiqa.nn.transformer import gelu


def relu6(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ``min(max(x, 0), 6)``.

    >>> relu6(jnp.array([-1.0, 2.0, 7.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    return jnp.clip(x, 0.0, 6.0)


SHARPNESS = 4.0
"""β of `softplus`."""


def softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return ``log(1 + exp(β x)) / β`` with β = 4: a ReLU whose corner is rounded.

    It is above the ReLU by log(2) / 4 = 0.173 at 0, by 0.005 at ±1 and by less further out; its slope is in (0, 1). It
    is not shifted to 0 at 0.

    >>> softplus(jnp.array([-2.0, 0.0, 2.0])).round(4).tolist()
    [9.999999747378752e-05, 0.17329999804496765, 2.0000998973846436]
    """
    return jax.nn.softplus(SHARPNESS * x) / SHARPNESS


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu6": relu6,
    "silu": jax.nn.silu,
    "gelu": gelu,
    "elu": jax.nn.elu,
    "softplus": softplus,
    "smooth_relu6": smooth_relu6,
}
"""Name -> the function of each number: max(x, 0); min(max(x, 0), 6); x·σ(x); x·Φ(x), exact; x, or exp(x) − 1 below 0;
log(1 + exp(4x)) / 4; its smooth ReLU6 (`jaxiqa.layers.smooth_relu6`).

The last five are smooth: their slopes are continuous; so are those of higher order, except that the second one of elu
and smooth_relu6 jumps. `jaxiqa.lipschitz` bounds all of them except gelu."""


def activate(name: str, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Apply the activation with this name.

    Args:
        name: a key of `ACTIVATIONS`.
        x: the input of the activation.

    >>> activate("elu", jnp.array([-1.0, 2.0])).round(4).tolist()
    [-0.632099986076355, 2.0]
    """
    return ACTIVATIONS[name](x)
