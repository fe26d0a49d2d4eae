"""Pytrees: static fields, traced values, and callables that ``jit`` takes as arguments."""

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import jax
import numpy as np

STATIC = {"static": True}
"""The metadata of a field that is no leaf, for `dataclasses.field`: type checkers take `static()` for a default."""


def static(default: Any = dataclasses.MISSING) -> Any:
    """A field of a pytree dataclass that is no leaf: it decides shapes or the program, and a change compiles anew."""
    return dataclasses.field(default=default, metadata={"static": True})


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its value cannot be looked at.

    >>> is_traced(1.0), jax.jit(lambda x: is_traced([x]))(1.0).item()
    (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CallableModule:
    """A Flax module as a pytree that can be called: ``CallableModule(*flax.nnx.split(module))(*arrays)``.

    Jitted functions take it as an argument, and gradients by it are of its own form: two modules of one structure share
    every compiled program; their weights are data.

    >>> from flax import nnx
    >>> linear = CallableModule(*nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    >>> jax.jit(lambda linear, x: linear(x))(linear, jax.numpy.ones((4, 3))).shape
    (4, 2)
    """

    graphdef: Any = dataclasses.field(metadata=STATIC)
    state: Any

    def module(self) -> Any:
        """The module itself, with its present weights."""
        from flax import nnx  # not above: it takes longer to import than all else here

        return nnx.merge(self.graphdef, self.state)

    def __call__(self, *arrays: Any) -> Any:
        return self.module()(*arrays)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as an argument that ``jit`` accepts.

    A pytree that can be called (`jax.tree_util.Partial`, a module, a registered dataclass) is passed on: its
    leaves are traced, so models of one structure share one compiled program. Any other callable is wrapped, and
    compiled once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    plain = callable(function) and jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


def trained(name: str, network: Any) -> Callable[..., Any]:
    """A network as `as_pytree` makes it, for what uses it without training it.

    Args:
        name: what the caller calls it.
        network: a function or a pytree that can be called.

    Raises:
        ValueError: it cannot be called, or says of itself (``network.fresh``) that its weights are random.

    >>> trained("denoise", "dncnn")
    Traceback (most recent call last):
    ValueError: denoise='dncnn' cannot be called; give the network itself, such as jaxiqa.networks.load(...)
    """
    if not callable(network):
        given = repr(network) if isinstance(network, str | None) else type(network).__name__
        raise ValueError(f"{name}={given} cannot be called; give the network itself, such as jaxiqa.networks.load(...)")
    if getattr(network, "fresh", False):
        raise ValueError(f"{name} has random weights; load trained ones with jaxiqa.networks.load(...)")
    return as_pytree(network)


def beside(images: Any, tree: Any) -> Any:
    """The pytree on the devices that hold ``images``: whole on each of them where its arrays are committed elsewhere.

    ``jit`` refuses arguments that are committed to different devices, such as weights read onto the first one and a
    batch that is divided over all. Arrays that are not committed, and traced ones, are left as they are.

    >>> beside(jax.numpy.zeros((1, 2, 2, 3)), {"w": 1.0})
    {'w': 1.0}
    """
    if is_traced(images) or not isinstance(images, jax.Array) or not images.committed:
        return tree  # `jit` moves images that are not committed to where the rest is
    devices, everywhere = images.sharding.device_set, _whole_on(images)

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or is_traced(leaf) or not leaf.committed:
            return leaf
        return leaf if leaf.sharding.device_set == devices else jax.device_put(leaf, everywhere)

    return jax.tree.map(placed, tree)


def _whole_on(images: jax.Array) -> jax.sharding.Sharding:
    """The sharding of an array that every device with a part of these images holds whole."""
    sharding = images.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    devices = sorted(sharding.device_set, key=attrgetter("id"))
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
