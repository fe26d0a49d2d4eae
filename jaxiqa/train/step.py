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
from jaxiqa.nn.dropout import set_dropout
from jaxiqa.train.pruning import apply_masks
from jaxiqa.train.state import SplitModel, TrainState, Tree, merge_model, outputs_of, raw_score_fn

Augment = Callable[..., tuple[Array, Array]]
"""``augment(score_fn, images, mos, keys, gather=...) -> images, mos``: the batch for training. It gets the current
metric, one device's images with their labels, a random key for each, and a function that gathers values of all devices.
A pytree."""

Penalty = Callable[..., Float[Array, ""]]
"""``penalty(score_fn, batch, keys, gather=...)``: is added to the loss; differentiable in ``score_fn``, the current
metric. ``batch`` holds one device's images as ``image`` and, if the training has them, ``unlabelled`` ones; there is a
random key for each image. A pytree."""


def identity_augment(
    score_fn: ScoreFn, images: Array, mos: Array, keys: Any, *, gather: Callable
) -> tuple[Array, Array]:
    """Return the batch unchanged: an `Augment`."""
    return images, mos


def zero_penalty(score_fn: ScoreFn, batch: Tree, keys: Any, *, gather: Callable) -> Float[Array, ""]:
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
    items: bool = False,
    accumulate: int = 1,
    axis_name: str | None = None,
    attacked_mode: str = "eval",
) -> Callable[[TrainState, Tree, Tree], tuple[TrainState, Float[Array, ""]]]:
    """Build ``step(state, constants, batch) -> (state, loss)``.

    ``constants`` holds ``fixed`` (parameters that are not trained), ``other`` (the metric's remaining variables),
    ``masks`` (0/1 arrays by module path, which keep pruned weights at zero), an `Augment`, a `Penalty` and the
    ``seed`` of their random keys (`DEFAULTS` has none of the three). ``batch`` holds ``mos`` and either ``image`` or,
    with ``after``, ``activation``: the output of the frozen stage ``after``; and, for a penalty, ``unlabelled`` images.
    With ``items``, images are crops as the
    network takes them. If the batch has ``boxes`` and ``region_mos``, the loss gets the scores and labels of these
    regions too; then ``augment`` must not add copies. Masks of the state go before these.

    With ``accumulate`` above 1, a batch passes in that many parts. The loss still compares the whole batch: a first
    pass computes the predictions, a second one the gradients. Batch norms see one part at a time, and attacks the whole
    batch.

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
            return raw_score_fn(whole, params, state.batch_stats, training=training, axis_name=axis_name, items=items)

        given, mos = batch["activation" if after else "image"], batch["mos"]
        own = keys(constants["seed"], state.step, len(mos))
        inputs, labels = constants["augment"](score_fn(state.params), given, mos, own, gather=gather)
        chex.assert_equal_shape_prefix([inputs, labels], 1, exception_type=ValueError)
        boxes = (batch["boxes"],) if "boxes" in batch else ()
        region_labels = {"region_mos": batch["region_mos"]} if boxes else {}
        if boxes and inputs is not given:
            raise ValueError("attacked copies of images have no labels of regions; train without either")
        # Copies of an image drop other values than the image itself.
        copies = [jax.vmap(jax.random.fold_in, (0, None))(own, copy) for copy in range(max(1, len(labels) // len(mos)))]
        dropping = jnp.concatenate(copies)

        def forward(
            params: Tree, batch_stats: Tree, inputs: Array, keys: Array, boxes: Array | None = None
        ) -> tuple[dict[str, Array], Tree]:
            model = merge_model(whole, params, batch_stats, training=True, axis_name=axis_name)
            set_dropout(model, keys)
            outputs = outputs_of(model, inputs, after=after, items=items, boxes=boxes)
            return outputs, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        def compared(outputs: dict[str, Array]) -> Float[Array, ""]:
            return parts.total_loss(jax.tree.map(gather, outputs | region_labels), gather(labels), loss)

        def priced(params: Tree) -> Float[Array, ""]:
            return constants["penalty"](score_fn(params), batch, own, gather=gather)

        def objective(params: Tree) -> tuple[Float[Array, ""], Tree]:
            outputs, batch_stats = forward(params, state.batch_stats, inputs, dropping, *boxes)
            return mean(compared(outputs) + priced(params)), batch_stats

        if accumulate == 1:
            (value, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        else:
            value, batch_stats, gradients = by_parts(
                forward, lambda outputs: mean(compared(outputs)), state, (inputs, dropping, *boxes), accumulate
            )
            price, slopes = jax.value_and_grad(lambda params: mean(priced(params)))(state.params)
            value, gradients = value + price, jax.tree.map(jnp.add, gradients, slopes)
        updates, optimizer_state = optimizer.update(mean(gradients), state.optimizer, state.params)
        params = apply_masks(optax.apply_updates(state.params, updates), state.masks or constants["masks"])
        chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)  # masks could change both
        state = replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=mean(batch_stats),
            optimizer=optimizer_state,
            loss_sum=(state.loss_sum + value).astype(state.loss_sum.dtype),
        )
        return state, value

    return step


def by_parts(
    forward: Callable[..., tuple[dict[str, Array], Tree]],
    loss: Callable[[dict[str, Array]], Float[Array, ""]],
    state: TrainState,
    inputs: tuple[Array, ...],
    count: int,
) -> tuple[Float[Array, ""], Tree, Tree]:
    """Return value, running statistics and gradient of ``loss(forward(params, statistics, *inputs))``.

    Only one of ``count`` parts of the inputs is held for the gradient at a time. The loss sees the outputs of all: they
    are computed first, and its gradient by each output then goes back through the part that made it.
    """
    split = tuple(x.reshape(count, -1, *x.shape[1:]) for x in inputs)
    outputs = jax.lax.map(lambda part: forward(state.params, state.batch_stats, *part)[0], split)
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
    value, slopes = jax.value_and_grad(loss)(joined)
    slopes = jax.tree.map(lambda slope, like: slope.reshape(like.shape), slopes, outputs)

    def add(carry: tuple[Tree, Tree], part: tuple[tuple, dict[str, Array]]) -> tuple[tuple[Tree, Tree], None]:
        batch_stats, total = carry
        _, back, batch_stats = jax.vjp(
            lambda params: forward(params, batch_stats, *part[0]), state.params, has_aux=True
        )
        return (batch_stats, jax.tree.map(jnp.add, total, back(part[1])[0])), None

    start = (state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
    (batch_stats, gradients), _ = jax.lax.scan(add, start, (split, slopes))
    return value, batch_stats, gradients
