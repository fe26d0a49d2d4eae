"""One optimisation step, written for one device's share of the batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import optax
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.pruning import apply_masks
from jaxiqa.train.losses import total_loss
from jaxiqa.train.state import Parts, TrainState, Tree, put_together


def make_step(
    parts: Parts,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    *,
    after: str | None = None,
    axis_name: str | None = None,
) -> Callable[[TrainState, Tree, Tree], tuple[TrainState, Float[Array, ""]]]:
    """Build ``step(state, constants, batch) -> (state, loss)``.

    ``constants`` holds ``fixed`` (parameters that do not train), ``other`` (the metric's remaining variables) and
    ``masks`` (0/1 arrays by module path: what pruning removed stays removed). ``batch`` holds ``mos`` and
    either ``image`` or, with ``after``, ``activation``: the output of the frozen stage ``after``.

    The predictions of all devices are gathered before the loss, which compares them with one another, and the mean
    over devices is taken both inside the loss and of the gradients.
    """

    def mean(tree: Any) -> Any:
        return jax.lax.pmean(tree, axis_name) if axis_name else tree

    def gather(x: Array) -> Array:
        return jax.lax.all_gather(x, axis_name, tiled=True) if axis_name else x

    def step(state: TrainState, constants: Tree, batch: Tree) -> tuple[TrainState, Float[Array, ""]]:
        whole = replace(parts, fixed=constants["fixed"], other=constants["other"])

        def objective(params: Tree) -> tuple[Float[Array, ""], Tree]:
            model = put_together(whole, params, state.batch_stats, training=True)
            for _, module in nnx.iter_modules(model):
                if isinstance(module, nnx.BatchNorm):
                    module.axis_name = axis_name
            outputs = model.outputs_from(batch["activation"], after) if after else model.outputs(batch["image"])
            value = total_loss(loss, gather(outputs), gather(batch["mos"]))
            return mean(value), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        (value, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(mean(gradients), state.optimizer, state.params)
        params = apply_masks(optax.apply_updates(state.params, updates), constants["masks"])
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
