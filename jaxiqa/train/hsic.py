"""Pruning by the Hilbert-Schmidt independence criterion (HSIC): training towards sparse filters that keep the labels.

"Pruning adversarially robust neural networks without adversarial examples" (PwoA), Jian et al., ICDM 2022, for a score
instead of classes. **Differs from the code of "Robustness as Architecture"**, arXiv:2506.04951, whose HSIC pruning
changes a copy of the model and therefore nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxiqa.train.pruning import apply_masks, make_masks, prunable
from jaxiqa.train.recorded import batched, record
from jaxiqa.train.state import SplitModel, Tree, merge_model

SIGMA = 5.0
"""Width of the Gaussian kernels, for distances divided by the root of the number of features."""


def gram(x: Float[Array, "n d"], sigma: float = SIGMA) -> Float[Array, "n n"]:
    """Return ``exp(−‖x_i − x_j‖² / (2 σ² d))``.

    >>> round(float(gram(jnp.array([[0.0], [1.0]]), 1.0)[0, 1]), 4)
    0.6065
    """
    squared = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    return jnp.exp(-squared / (2 * sigma**2 * x.shape[-1]))


def hsic(x: Float[Array, "n d"], y: Float[Array, "n e"], *, sigma: float = SIGMA) -> Float[Array, ""]:
    """Return ``tr(K H L H) / (n − 1)²`` with the Gram matrices K of x and L of y, and H = I − 1/n.

    It is non-negative, 0 if one of them is constant, and for two points (1 − K₁₂)(1 − L₁₂).

    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
    >>> round(float(hsic(x, y, sigma=1.0)), 4), round(float(hsic(x, jnp.ones((2, 1)))), 5)
    (0.3402, 0.0)

    Reference: Gretton et al., "Measuring Statistical Dependence with Hilbert-Schmidt Norms", 2005.
    """
    n = x.shape[0]
    k, ell = gram(x, sigma), gram(y, sigma)
    centred = k - k.mean(0) - k.mean(1, keepdims=True) + k.mean()
    return jnp.sum(centred * ell) / (n - 1) ** 2


def sparse_towards(
    parts: SplitModel,
    images: Float[np.ndarray, "n h w c"],
    mos: Float[np.ndarray, " n"],
    *,
    amount: float,
    earlier: Tree | None = None,
    exclude: tuple[str, ...] = ("orthogonal",),
    epochs: int = 10,
    batch_size: int = 8,
    learning_rate: float = 1e-4,
    rho: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, float], Any] = lambda step, steps, loss: None,
) -> tuple[Tree, Tree]:
    """Train the parameters so that a share of all filters can be removed; return parameters and masks.

    Minimises, by Adam and ADMM over the kernels W (Z the nearest kernels with the removed filters at 0, U the dual),

        Σ_stages (HSIC(h, x) − 4 HSIC(h, y)) + 0.3 · mean (f − f₀)² / var f₀ + ρ/2 ‖W − Z + U‖²

    with the cell means h of a stage of the backbone, x of the images, and labels y. f₀ are the scores at the start.

    Args:
        parts: the metric.
        images: at least ``batch_size`` images.
        mos: their labels; standardised here.
        amount: share of every layer's filters to remove: those of the smallest L2 norm of W + U.
        earlier, exclude: as in `jaxiqa.train.pruning.make_masks`; what ``earlier`` removes is not trained.
        epochs, batch_size, learning_rate, rho: of the training; the authors' values, but they use SGD, which diverges
            where the scores of a metric vary little.
        seed: of the order of the images.
        progress: called after every step with (steps done, number of steps, loss).

    Raises:
        FloatingPointError: the loss is not finite; the message names the step.
        ValueError: fewer images than ``batch_size``.
    """
    count = len(images)
    if count < batch_size:
        raise ValueError(f"{count} images; expected at least batch_size={batch_size}")
    labels = ((mos - mos.mean()) / (mos.std() or 1.0)).astype(np.float32)
    stages = [
        ("backbone", "stage", name) for name in merge_model(parts, parts.params, parts.batch_stats).backbone.order
    ]
    optimizer = optax.adam(learning_rate)

    @jax.jit
    def outputs_at_start(batch: Array) -> dict[str, Array]:
        return {"score": merge_model(parts, parts.params, parts.batch_stats).outputs(batch)["score"]}

    start = np.asarray(batched(outputs_at_start, images, batch_size)["score"])
    spread = float(start.var()) or 1.0

    def loss(params: Tree, near: Mapping[tuple, Array], batch: Array, y: Array, before: Array) -> Array:
        model = merge_model(parts, params, parts.batch_stats)
        outputs, found = record(model, batch, stages, grid=2)
        pixels = batch.reshape(len(batch), -1)
        total = sum(hsic(h, pixels) - 4 * hsic(h, y[:, None]) for h in found.values())
        kept = jnp.mean((outputs["score"] - before) ** 2) / spread
        pull = sum(jnp.sum((kernel - near[path]) ** 2) for path, kernel in kernels_of(params))
        return total + 0.3 * kept + 0.5 * rho * pull

    def kernels_of(params: Tree) -> list[tuple[tuple, Array]]:
        return prunable(params, exclude)

    @jax.jit
    def step(params: Tree, state: Any, near: Any, batch: Array, y: Array, before: Array) -> tuple[Tree, Any, Array]:
        value, gradients = jax.value_and_grad(loss)(params, near, batch, y, before)
        updates, state = optimizer.update(gradients, state)
        return apply_masks(optax.apply_updates(params, updates), earlier or {}), state, value

    params, state = parts.params, optimizer.init(parts.params)
    dual = {path: jnp.zeros_like(kernel) for path, kernel in kernels_of(params)}
    masks = make_masks(params, amount=amount, exclude=exclude, earlier=earlier)
    random, steps = np.random.default_rng(seed), count // batch_size
    for epoch in range(epochs):
        sparse = dict(kernels_of(apply_masks(shifted(params, dual), masks)))
        near = {path: sparse[path] - dual[path] for path in dual}
        order = random.permutation(count)
        for i in range(steps):
            chosen = order[i * batch_size :][:batch_size]
            params, state, value = step(
                params,
                state,
                near,
                jnp.asarray(images[chosen]),
                jnp.asarray(labels[chosen]),
                jnp.asarray(start[chosen]),
            )
            done = epoch * steps + i + 1
            if not np.isfinite(value):
                raise FloatingPointError(f"the loss of HSIC pruning is {value} at step {done}; lower learning_rate")
            progress(done, epochs * steps, float(value))
        dual = {path: dual[path] + kernel - sparse[path] for path, kernel in kernels_of(params)}
        masks = make_masks(shifted(params, dual), amount=amount, exclude=exclude, earlier=earlier)
    return apply_masks(params, masks), masks


def shifted(params: Tree, dual: Mapping[tuple, Array]) -> Tree:
    """Return the parameters with the dual added to their kernels.

    >>> shifted({"a": {"kernel": jnp.ones(2)}}, {("a", "kernel"): jnp.ones(2)})["a"]["kernel"].tolist()
    [2.0, 2.0]
    """

    def add(tree: Tree, path: tuple) -> Tree:
        return {
            key: add(value, (*path, key))
            if isinstance(value, dict)
            else value + dual[(*path, key)]
            if (*path, key) in dual
            else value
            for key, value in tree.items()
        }

    return add(params, ())
