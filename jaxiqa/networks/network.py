"""A network from maps to maps as a callable pytree."""

from dataclasses import dataclass

import jax

from jaxiqa.core.pytrees import CallableModule, static


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network(CallableModule):
    """``network(*maps)`` is ``module(*maps)``; build it by ``Network(*flax.nnx.split(module))``.

    >>> from flax import nnx
    >>> network = Network(*nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    >>> jax.jit(lambda network, x: network(x))(network, jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    fresh: bool = static(False)
    """Whether the weights are random, from `jaxiqa.networks.build`; only training accepts such a network."""
