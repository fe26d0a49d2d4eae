"""One optimisation step, for one device's share of the batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxiqa.core.types import ScoreFn
from jaxiqa.train.losses import total_loss
from jaxiqa.train.pruning import apply_masks
from jaxiqa.train.state import SplitModel, TrainState, Tree, merge_model, raw_score_fn

Augment = Callable[..., tuple[Array, Array]]
"""``augment(score_fn, images, mos, keys, gather=...) -> images, mos``: the batch for training. It gets the current
metric, one device's images with their labels, a random key for each, and a function that gathers values of all devices.
A pytree."""

Penalty = Callable[..., Float[Array, ""]]
"""``penalty(score_fn, images, gather=...)``: is added to the loss; differentiable in ``score_fn``. A pytree."""


def identity_augment(
    score_fn: ScoreFn, images: Array, mos: Array, keys: Any, *, gather: Callable
) -> tuple[Array, Array]:
    """Return the batch unchanged: an `Augment`."""
    return images, mos


def zero_penalty(score_fn: ScoreFn, images: Array, *, gather: Callable) -> Float[Array, ""]:
    """Return zero: a `Penalty`."""
    return jnp.float32(0)


DEFAULTS = {
    "augment": jax.tree_util.Partial(identity_augment),
    "penalty": jax.tree_util.Partial(zero_penalty),
    "seed": 0,
}
"""The constants of a step on the unchanged batch."""


def make_step(
    parts: SplitModel,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    after: str | None = None,
    axis_name: str | None = None,
    attacked_mode: str = "eval",
) -> Callable[[TrainState, Tree, Tree], tuple[TrainState, Float[Array, ""]]]:
    """Build ``step(state, constants, batch) -> (state, loss)``.

    ``constants`` holds ``fixed`` (parameters that are not trained), ``other`` (the metric's remaining variables),
    ``masks`` (0/1 arrays by module path, which keep pruned weights at zero), an `Augment`, a `Penalty` and the
    ``seed`` of their random keys (`DEFAULTS` has none of the three). ``batch`` holds ``mos`` and either ``image`` or,
    with ``after``, ``activation``: the output of the frozen stage ``after``. Masks of the state go before these.

    In the score function of ``augment`` and ``penalty``, batch norms are in ``attacked_mode``, "eval" or "train".
    Every image's key depends on the seed, the step and its position in the whole batch. So a killed run resumes
    exactly, and the number of devices does not matter.

    The predictions of all devices are gathered before the loss, which compares them with one another. The mean over
    devices is taken inside the loss and of the gradients.
    """

    def mean(tree: Any) -> Any:
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def gather(x: Array) -> Array:
        return jax.lax.all_gather(x, axis_name, tiled=True) if axis_name else x

    def keys(seed: Array, step: Array, count: int) -> Key[Array, " b"]:
        first = jax.lax.axis_index(axis_name) * count if axis_name else 0
        key = jax.random.fold_in(jax.random.key(seed), step)
        return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(count))

    def step(state: TrainState, constants: Tree, batch: Tree) -> tuple[TrainState, Float[Array, ""]]:
        whole = replace(parts, fixed=constants["fixed"], other=constants["other"])

        def score_fn(params: Tree) -> ScoreFn:
            training = attacked_mode == "train"
            return raw_score_fn(whole, params, state.batch_stats, training=training, axis_name=axis_name)

        given, mos = batch["activation" if after else "image"], batch["mos"]
        inputs, labels = constants["augment"](
            score_fn(state.params), given, mos, keys(constants["seed"], state.step, len(mos)), gather=gather
        )

        chex.assert_equal_shape_prefix([inputs, labels], 1, exception_type=ValueError)

        def objective(params: Tree) -> tuple[Float[Array, ""], Tree]:
            model = merge_model(whole, params, state.batch_stats, training=True, axis_name=axis_name)
            outputs = model.outputs_from(inputs, after) if after else model.outputs(inputs)
            value = total_loss(loss, jax.tree.map(gather, outputs), gather(labels), parts.loss_weights)
            value = value + constants["penalty"](score_fn(params), given, gather=gather)
            return mean(value), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        (value, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(mean(gradients), state.optimizer, state.params)
        params = apply_masks(optax.apply_updates(state.params, updates), state.masks or constants["masks"])
        chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)  # masks could change both
        state = replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=mean(batch_stats),
            optimizer=optimizer_state,
            loss_sum=state.loss_sum + value,
        )
        return state, value

    return step
