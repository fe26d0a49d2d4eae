"""One step of training a small network from images to images, and its quality."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxiqa.core.types import Images, Scores
from jaxiqa.ops.ssim import ssim

State = dict[str, Any]
_adam = optax.scale_by_adam()


def start(module: nnx.Module) -> tuple[Any, Any, State]:
    """Return the network's structure in training (batch norms use the batch) and in use, and the initial state.

    The state is a pytree of arrays: ``params``, ``stats`` (of batch norms), ``memory`` (Adam's), ``best`` (``params``
    and ``stats`` with the highest SSIM) and ``best_ssim``.

    >>> training, using, state = start(nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0)))
    >>> sorted(state)
    ['best', 'best_ssim', 'memory', 'params', 'stats']
    """
    using, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = states
    module.set_attributes(nnx.BatchNorm, use_running_average=False, raise_if_not_found=False)
    numbers = {"params": params, "stats": stats}
    state = {**numbers, "memory": _adam.init(params), "best": numbers, "best_ssim": jnp.float32(-1)}
    return nnx.graphdef(module), using, state


@jax.jit
def learn(training: Any, state: State, given: Images, wanted: Images, learning_rate: Any) -> State:
    """Take a step of Adam on the mean of (network(given) − wanted)²."""

    def loss(params: Any) -> tuple[jax.Array, Any]:
        stats = jax.tree.map(lambda leaf: leaf, state["stats"])  # Flax can change only what was created in this trace
        module = nnx.merge(training, params, stats)
        error = jnp.mean((module(given) - wanted) ** 2)
        return error, nnx.state(module, nnx.BatchStat)

    gradient, stats = jax.grad(loss, has_aux=True)(state["params"])
    update, memory = _adam.update(gradient, state["memory"])
    params = jax.tree.map(lambda old, step: old - learning_rate * step, state["params"], update)
    return {**state, "params": params, "stats": stats, "memory": memory}


@jax.jit
def quality(using: Any, state: State, given: Images, wanted: Images) -> Scores:
    """Return the SSIM of the network's clipped output for each image."""
    module = nnx.merge(using, state["params"], state["stats"])
    return ssim(jnp.clip(module(given), 0, 1), wanted)


def keep_best(state: State, mean_ssim: float) -> State:
    """Return the state; if it is better than before, also store its parameters as the best ones.

    Raises:
        FloatingPointError: the SSIM is not finite.
    """
    if not jnp.isfinite(mean_ssim):
        raise FloatingPointError(f"the SSIM became {mean_ssim}; lower the learning rate")
    if mean_ssim <= state["best_ssim"]:
        return state
    best = {"params": state["params"], "stats": state["stats"]}
    return {**state, "best": best, "best_ssim": jnp.float32(mean_ssim)}
