"""Training steps of convolutions of one shape: matrices as parameters, the exponential layer, free convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from timing import measure

from jaxiqa.layers import DirectConv, OrthogonalConv
from jaxiqa.layers.fourier import phases, response, through_frequencies
from jaxiqa.layers.linear_algebra import HIGHEST
from jaxiqa.train.manifold import on_manifold

RATE = 1e-3
TURNS = 16


class Free(nnx.Module):
    """A convolution with any matrix per frequency, or with those of a free 3×3 kernel."""

    def __init__(self, parts: jax.Array | None, kernel: jax.Array | None, size: tuple[int, int]):
        self.parts = None if parts is None else nnx.Param(jnp.copy(parts))
        self.kernel = None if kernel is None else nnx.Param(jnp.copy(kernel))
        self.size = size

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel is not None:
            matrices = response(self.kernel[...], phases((3, 3), self.size), 1)
        else:
            matrices = jax.lax.complex(self.parts[0], self.parts[1])
        multiply = lambda z: jnp.einsum("fbgi,fgoi->fbgo", z, matrices, precision=HIGHEST)  # noqa: E731
        return through_frequencies(x, multiply)


def step_of(layer: nnx.Module, optimizer: optax.GradientTransformation) -> tuple[Any, Any, Any]:
    """Return ``step(params, state, x, target) -> params, state``, the parameters, and the optimizer's first state."""
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def step(params: Any, state: Any, x: jax.Array, target: jax.Array) -> tuple[Any, Any]:
        gradient = jax.grad(lambda p: jnp.mean((nnx.merge(graphdef, p, rest)(x) - target) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step, params, optimizer.init(params)


class Trained:
    """One layer with Adam's state; each call is a step towards a fixed random target, by the mean squared error."""

    def __init__(self, layer: nnx.Module, optimizer: optax.GradientTransformation, x: jax.Array, target: jax.Array):
        step, params, state = step_of(layer, optimizer)
        self.params, self.state = jax.tree.map(jnp.copy, params), state
        self.data = x, target
        self.program = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, *self.data).compile()
        self.memory = self.program.memory_analysis().temp_size_in_bytes / 2**20

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self.program(self.params, self.state, *self.data))

    def error(self) -> float:
        """Return the largest |σ − 1| over every seventh frequency, by SVD in float64."""
        real, imaginary = np.asarray(self.params["unitary_matrices"][...], np.float64)[:, ::7]
        return float(np.abs(np.linalg.svd(real + 1j * imaginary, compute_uv=False) - 1).max())


def steps(c: int, h: int, w: int, *, batch: int, keep: int, most: int) -> list[tuple[str, float, float, float | None]]:
    """Return, for each kind of layer, its name, the seconds of a step, MiB, and the error after all measured steps."""
    x, target = jax.random.normal(jax.random.key(1), (2, batch, h, w, c))
    layer = OrthogonalConv(c, c, rngs=nnx.Rngs(0))
    direct = DirectConv(layer, (h, w))
    adam = optax.adam(RATE)
    kinds = {
        "step on the manifold": (direct, on_manifold(RATE)),
        f"step on the manifold, {TURNS} turns": (direct, on_manifold(RATE, turns=TURNS)),
        "step expm": (layer, adam),
        "step unconstrained, kernel": (Free(None, layer.kernel[...], (h, w)), adam),
        "step unconstrained, spectrum": (Free(direct.unitary_matrices[...], None, (h, w)), adam),
    }
    trained = {name: Trained(*kind, x, target) for name, kind in kinds.items()}
    seconds = measure(dict(trained), keep=keep, most=most).seconds
    return [
        (name, seconds[name], one.memory, one.error() if "manifold" in name else None) for name, one in trained.items()
    ]
