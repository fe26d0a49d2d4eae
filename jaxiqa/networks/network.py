"""A network from maps to maps as a pytree that can be called."""

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """``network(*maps)`` is ``module(*maps)``; made by ``Network(*flax.nnx.split(module))``.

    Jitted functions take it as an argument, and gradients by it are of its own form: two networks of one structure
    share every compiled program; their weights are data.

    >>> network = Network(*nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    >>> jax.jit(lambda network, x: network(x))(network, jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    graphdef: Any = field(metadata={"static": True})
    state: Any
    fresh: bool = field(default=False, metadata={"static": True})
    """Whether the weights are random, of `jaxiqa.networks.build`: only what trains a network may have such."""

    def __call__(self, *maps: Any) -> Any:
        return nnx.merge(self.graphdef, self.state)(*maps)
