"""Pytrees: static fields, traced values, callables as arguments of ``jit``."""

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import jax
import numpy as np

STATIC = {"static": True}
"""The metadata of a field that is no leaf, for `dataclasses.field`: type checkers take `static()` for a default."""


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declare a static field of a pytree dataclass: it decides shapes or the program; a change needs compilation."""
    return dataclasses.field(default=default, metadata={"static": True})


def is_traced(*trees: Any) -> bool:
    """Return whether any leaf is a tracer, which has no concrete value.

    >>> is_traced(1.0), jax.jit(lambda x: is_traced([x]))(1.0).item()
    (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CallableModule:
    """A Flax module as a callable pytree: ``CallableModule(*flax.nnx.split(module))(*arrays)``.

    It can be an argument of jitted functions; its weights are data, so modules of one structure share every compiled
    program. Gradients with respect to it have the same structure.

    >>> from flax import nnx
    >>> linear = CallableModule(*nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    >>> jax.jit(lambda linear, x: linear(x))(linear, jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    graphdef: Any = dataclasses.field(metadata=STATIC)
    state: Any

    def module(self) -> Any:
        """Return the module with its present weights."""
        from flax import nnx  # not at the top: its import takes longer than all others here

        return nnx.merge(self.graphdef, self.state)

    def __call__(self, *arrays: Any) -> Any:
        return self.module()(*arrays)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function in a form that ``jit`` accepts as an argument.

    A callable pytree (`jax.tree_util.Partial`, a module, a registered dataclass) is returned unchanged: its leaves
    are traced, so models of one structure share one compiled program. Any other callable is wrapped, and compiled
    once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    plain = callable(function) and jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


def trained(name: str, network: Any) -> Callable[..., Any]:
    """Check that a network is callable and has trained weights; return it by `as_pytree`.

    Args:
        name: name of the argument, for messages.
        network: a function or a callable pytree.

    Raises:
        ValueError: the network is not callable, or its weights are random (``network.fresh``).

    >>> trained("denoise", "dncnn")
    Traceback (most recent call last):
    ValueError: denoise='dncnn' cannot be called; give a network, such as jaxiqa.networks.load(...)
    """
    if not callable(network):
        given = repr(network) if isinstance(network, str | None) else type(network).__name__
        raise ValueError(f"{name}={given} cannot be called; give a network, such as jaxiqa.networks.load(...)")
    if getattr(network, "fresh", False):
        raise ValueError(f"{name} has random weights; load trained weights with jaxiqa.networks.load(...)")
    return as_pytree(network)


def beside(images: Any, tree: Any) -> Any:
    """Replicate a pytree on the devices of ``images``, if its arrays are committed to other devices.

    ``jit`` does not accept arguments that are committed to different devices, such as weights on the first device and
    a batch that is sharded over all. Uncommitted and traced arrays are unchanged.

    >>> beside(jax.numpy.zeros((1, 2, 2, 3)), {"w": 1.0})
    {'w': 1.0}
    """
    if is_traced(images) or not isinstance(images, jax.Array) or not images.committed:
        return tree  # `jit` moves uncommitted images to the devices of the other arguments
    devices, everywhere = images.sharding.device_set, _whole_on(images)

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or is_traced(leaf) or not leaf.committed:
            return leaf
        return leaf if leaf.sharding.device_set == devices else jax.device_put(leaf, everywhere)

    return jax.tree.map(placed, tree)


def _whole_on(images: jax.Array) -> jax.sharding.Sharding:
    """Return the sharding that replicates an array on all devices of these images."""
    sharding = images.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    devices = sorted(sharding.device_set, key=attrgetter("id"))
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
