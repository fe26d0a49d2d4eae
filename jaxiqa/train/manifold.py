"""An optimiser of orthogonal matrices: any optax direction, with its steps along the manifold."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxiqa.core.checks import check_number
from jaxiqa.layers.manifold import TOLERANCE, corrected, nearest, rotate, rotation

KINDS = {"orthogonal_matrix": 1, "unitary_matrices": 2}
"""Name of a parameter that is kept orthogonal -> number of its parts: real, or real and imaginary (leading axis)."""


class Matrices(NamedTuple):
    """State of one orthogonal parameter; the leading axis is that of its groups.

    Attributes:
        direction: of the direction, in rotations.
        total: sum of the gradients since each group's last step; () if there is one group.
        distance: bounds of the distance from orthogonal.
    """

    direction: Any
    total: Any
    distance: Array


class OnManifold(NamedTuple):
    """State of `on_manifold`: the number of steps, the direction of the free parameters, the orthogonal ones."""

    steps: Array
    free: Any
    matrices: tuple[Matrices, ...]


def on_manifold(
    learning_rate: float | Callable[[Any], Any],
    direction: optax.GradientTransformation | None = None,
    *,
    turns: int = 1,
) -> optax.GradientTransformation:
    """Return an optimiser with exact steps ``W ← exp(Ω)·W`` of orthogonal matrices; other parameters step as usual.

    A parameter named ``orthogonal_matrix`` or ``unitary_matrices`` (`jaxiqa.layers.direct`) is orthogonal. Its gradient
    becomes a rotation (`jaxiqa.layers.manifold.rotation`), of which ``direction`` keeps its moments, and which is zero
    where no rotation lowers the loss. (Moments of the matrix's own gradient would not be zero there.) Weight decay in
    ``direction`` does nothing to such a parameter, and clipping by norm clips each of them alone.

    After each step a bound of the distance from orthogonal grows by that of the step (`jaxiqa.layers.manifold`); once
    above `TOLERANCE` the matrices are corrected. So the singular values of float32 matrices are within 5e-6 of 1 after
    any number of steps.

    Args:
        learning_rate: a number, or a function of the number of steps done.
        direction: steps before the rate: by default ``optax.scale_by_adam()``. Its operations must treat an entry and
            its transpose alike, as all usual ones do.
        turns: the matrices of a convolution, one per frequency, take turns: a step rotates 1/``turns`` of them (or the
            next larger share that divides them), by ``turns`` times the rate, in the direction of the mean gradient
            since their last step. 1 rotates all of them. With 16 a training step takes 0.6 to 1.2 times that of a free
            convolution on a CPU (benchmarks/layers.py).

    Raises:
        ValueError: ``turns`` is below 1, or the update is called without parameters.

    >>> w = {"orthogonal_matrix": jnp.eye(3), "bias": jnp.ones(3)}
    >>> optimizer = on_manifold(0.1)
    >>> gradient = jax.grad(lambda p: jnp.sum((p["orthogonal_matrix"] - jnp.eye(3)[::-1]) ** 2) + p["bias"].sum())(w)
    >>> updates, state = optimizer.update(gradient, optimizer.init(w), w)
    >>> q = optax.apply_updates(w, updates)["orthogonal_matrix"]
    >>> bool(jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-5))
    True

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513. **Differs from the paper**: matrices are corrected when a bound says so, not once per epoch, and
    may take turns.
    """
    check_number("turns", turns, 1)
    direction = optax.scale_by_adam() if direction is None else direction

    def init(params: Any) -> OnManifold:
        matrices = []
        for kind, leaf in _leaves(params):
            if kind:
                shape = _shape(kind, leaf, turns)
                omega = jnp.zeros((shape[1], shape[0], *shape[2:-2], max(shape[-2:]), max(shape[-2:])), leaf.dtype)
                total = jnp.zeros(shape, leaf.dtype) if shape[1] > 1 else ()
                matrices.append(Matrices(jax.vmap(direction.init)(omega), total, jnp.zeros(shape[1])))
        return OnManifold(jnp.int32(0), direction.init(_free(params)), tuple(matrices))

    def update(gradient: Any, state: OnManifold, params: Any = None) -> tuple[Any, OnManifold]:
        if params is None:
            raise ValueError("params is None; a step along the manifold starts from the matrices")
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        free, free_state = direction.update(_free(gradient), state.free, _free(params))
        steps, left, updates, matrices = iter(jax.tree.leaves(free)), iter(state.matrices), [], []
        for (kind, leaf), slope in zip(_leaves(params), jax.tree.leaves(gradient), strict=True):
            if kind:
                step, new = _rotated(kind, leaf, slope, next(left), state.steps, rate, direction)
                matrices.append(new)
            else:
                step = -rate * next(steps)
            updates.append(step.astype(leaf.dtype))
        return jax.tree.unflatten(jax.tree.structure(params), updates), OnManifold(
            state.steps + 1, free_state, tuple(matrices)
        )

    return optax.GradientTransformation(init, update)


def orthogonalised(params: Any) -> Any:
    """Return parameters whose orthogonal matrices are the nearest ones to those given, such as averages.

    >>> orthogonalised({"orthogonal_matrix": jnp.diag(jnp.array([0.5, 0.8]))})["orthogonal_matrix"].round(5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    found = []
    for kind, leaf in _leaves(params):
        parts = nearest(tuple(leaf) if kind == "unitary_matrices" else (leaf,)) if kind else (leaf,)
        found.append(jnp.stack(parts) if kind == "unitary_matrices" else parts[0])
    return jax.tree.unflatten(jax.tree.structure(params), found)


def has_matrices(params: Any) -> bool:
    """Return whether any parameter is orthogonal."""
    return any(kind for kind, _ in _leaves(params))


def _rotated(
    kind: str,
    leaf: Array,
    slope: Array,
    state: Matrices,
    count: Array,
    rate: Any,
    direction: optax.GradientTransformation,
) -> tuple[Array, Matrices]:
    """Return the update of one parameter, which is zero for groups whose turn it is not, and its new state."""
    groups = len(state.distance)
    shape = _shape(kind, leaf, groups)
    turn = count % groups
    here, mean, total = leaf.reshape(shape)[:, 0], slope.reshape(shape)[:, 0], state.total
    if groups > 1:
        # The barriers separate reading from writing, so XLA writes into the large arrays instead of into copies.
        total = jax.lax.optimization_barrier(total + slope.reshape(shape))
        here, mean = (_pick(x, turn, 1) for x in (leaf.reshape(shape), total))
        total, here, mean = jax.lax.optimization_barrier((total, here, mean / groups))
        total = _put(total, jnp.zeros_like(mean), turn, 1)
    omega = jnp.stack(rotation(tuple(here), tuple(mean)))
    now = jax.lax.optimization_barrier(jax.tree.map(lambda x: _pick(x, turn, 0), state.direction))
    step, now = jax.lax.optimization_barrier(direction.update(omega, now, jnp.zeros_like(omega)))
    w, added = rotate(tuple(here), tuple(-rate * groups * step))
    distance = state.distance[turn] + added
    change = jnp.stack(jax.lax.cond(distance > TOLERANCE, corrected, lambda w: w, w)) - here
    change = _put(jnp.zeros(shape, leaf.dtype), change, turn, 1)
    moments = jax.tree.map(lambda whole, part: _put(whole, part, turn, 0), state.direction, now)
    distance = state.distance.at[turn].set(jnp.where(distance > TOLERANCE, 0.0, distance))
    return change.reshape(leaf.shape), Matrices(moments, total, distance)


def _pick(x: Array, place: Array, axis: int) -> Array:
    return jax.lax.dynamic_index_in_dim(x, place, axis, keepdims=False)


def _put(x: Array, part: Array, place: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, part.astype(x.dtype), place, axis)


def _shape(kind: str, leaf: Array, turns: int) -> tuple[int, ...]:
    """Return the shape (parts, groups, matrices of a group, …, n, p), of at most ``turns`` equal groups."""
    shape = leaf.shape if KINDS[kind] > 1 else (1, *leaf.shape)
    count = shape[1] if len(shape) > 3 else 1
    groups = max(n for n in range(1, min(turns, max(count, 1)) + 1) if count % n == 0)
    return (shape[0], groups, count // groups, *shape[2:]) if len(shape) > 3 else (shape[0], 1, *shape[1:])


def _free(tree: Any) -> Any:
    """Return the tree without its orthogonal parameters."""
    masked = [optax.MaskedNode() if kind else leaf for kind, leaf in _leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), masked)


def _leaves(params: Any) -> list[tuple[str | None, Array]]:
    """Return the kind of every parameter, a key of `KINDS` or None, and the parameter."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
        own = [name for name in names if name not in ("", "value", "raw_value")][-1:]  # the others are of modules
        found.append((own[0] if own and own[0] in KINDS else None, leaf))
    return found
