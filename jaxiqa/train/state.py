"""The state of a training as one pytree of plain arrays, and a metric split into what is trained and the rest."""

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from jaxiqa.core.processes import from_first
from jaxiqa.core.pytrees import STATIC, static
from jaxiqa.core.types import Images, Scores
from jaxiqa.models.metric import Metric
from jaxiqa.nn.precision import set_compute_dtype

Tree = dict[Any, Any]
"""Nested dict of arrays, keyed by module path."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a killed run needs for an exact resume; the position in the data is ``step`` itself.

    Leaves are arrays; JAX's tree functions also put other objects in their places, so they have no types.
    """

    step: Any  # int32
    params: Tree
    batch_stats: Tree
    optimizer: Any
    loss_sum: Any  # float32, over the steps of the current epoch
    best_params: Tree
    best_batch_stats: Tree
    best_correlation: Any  # float32, on the validation images; -inf before the first epoch
    best_epoch: Any  # int32
    masks: Tree = field(default_factory=dict)  # of `jaxiqa.train.gradual.GradualPruning`


@dataclass(frozen=True)
class SplitModel:
    """A metric split into trained parameters and the rest, with a structure for either mode.

    ``training`` and ``inference`` differ in the mode of batch normalisation, the type of products and what is kept for
    the gradient. ``total_loss`` is the metric's.
    """

    training: nnx.GraphDef
    inference: nnx.GraphDef
    params: Tree
    fixed: Tree
    batch_stats: Tree
    other: Tree
    total_loss: Callable


def split_model(
    model: Metric,
    *,
    frozen: Collection[str] = (),
    batch_norm: str = "train",
    precision: str = "float32",
    remat: bool = False,
) -> SplitModel:
    """Split a metric for training.

    Args:
        model: the metric; it is not changed.
        frozen: backbone stages whose parameters are not trained.
        batch_norm: ``"train"``, or ``"frozen"`` to use the backbone's running statistics. The head's batch norms
            always use the batch; those of frozen stages never do.
        precision: type of the backbone's products in training, see `jaxiqa.nn.precision.set_compute_dtype`.
        remat: compute the backbone's stages again for the gradient.

    Parameters that a batch norm cancels (`jaxiqa.models.metric.Metric.cancelled`) are not trained.
    """

    def trains(path: tuple, variable: nnx.Variable) -> bool:
        name = ".".join(map(str, path))
        cancelled = any(re.fullmatch(pattern, name) for pattern in model.cancelled)
        held = path[:2] == ("backbone", "stage") and path[2] in frozen
        return isinstance(variable, nnx.Param) and not (held or cancelled)

    def split(training: bool) -> tuple[Any, ...]:
        view = nnx.clone(model)
        view.eval()
        if training and hasattr(view, "backbone"):
            set_compute_dtype(view, precision)
            view.backbone.remat = remat
        for path, module in nnx.iter_modules(view):
            if isinstance(module, nnx.BatchNorm):
                held = path[0] == "backbone" and (batch_norm == "frozen" or path[2] in frozen)
                module.use_running_average = held or not training
        return nnx.split(view, trains, nnx.Param, nnx.BatchStat, ...)

    training, *states = split(training=True)
    inference = split(training=False)[0]
    params, fixed, batch_stats, other = map(nnx.to_pure_dict, states)
    return SplitModel(training, inference, params, fixed, batch_stats, other, type(model).total_loss)


def same_arrays(parts: SplitModel) -> SplitModel:
    """Return the metric with the arrays of process 0: other machines may round otherwise, and prune other filters."""
    names = ("params", "fixed", "batch_stats", "other")
    return replace(parts, **from_first({name: getattr(parts, name) for name in names}))


def merge_model(
    parts: SplitModel, params: Tree, batch_stats: Tree, *, training: bool = False, axis_name: str | None = None
) -> Any:
    """Return the metric with these parameters; gradients flow through it to ``params``.

    In training mode, batch norms that use the batch share its statistics over the devices of ``axis_name``.
    """
    graphdef = parts.training if training else parts.inference
    return _merge(graphdef, (params, parts.fixed, batch_stats, parts.other), axis_name)


def _merge(graphdef: nnx.GraphDef, states: tuple[Tree, ...], axis_name: str | None) -> Any:
    model = nnx.merge(graphdef, *states, copy=True)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.axis_name = axis_name
    return model


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RawScore:
    """The uncalibrated score of the examples, ``b h w c -> b``, for attacks and penalties in training.

    A pytree, so that jitted functions take it as an argument; differentiable in its parameters. Updates of running
    statistics by batch norms in training mode are discarded.
    """

    graphdef: Any = field(metadata=STATIC)
    states: tuple[Tree, ...]
    axis_name: str | None = static()
    items: bool = static(False)

    def __call__(self, images: Images) -> Scores:
        return outputs_of(self.model(), images, items=self.items)["score"]

    def model(self) -> Any:
        """Return the metric."""
        return _merge(self.graphdef, self.states, self.axis_name)


def outputs_of(
    model: Metric, inputs: Array, *, after: str | None = None, items: bool = False, boxes: Array | None = None
) -> dict[str, Array]:
    """Return a metric's training outputs.

    Args:
        model: the metric.
        inputs: whole images; prepared items, with ``items``; or the output of the stage ``after``.
        after: a frozen stage, for a metric that is ``restartable``.
        items: the inputs are crops, as the network takes them.
        boxes: regions of whole images whose scores are needed too, ``b r 4``, for a metric that is ``regional``.
    """
    if boxes is not None:
        if not model.regional:
            raise ValueError(f"{type(model).__name__} does not train on labels of regions, which the examples have")
        return model.region_outputs(inputs, boxes)  # type: ignore[attr-defined]
    if after:
        return model.outputs_from(inputs, after)  # type: ignore[attr-defined]
    return model.item_outputs(inputs) if items else model.outputs(inputs)


def raw_score_fn(
    parts: SplitModel,
    params: Tree,
    batch_stats: Tree,
    *,
    training: bool = False,
    axis_name: str | None = None,
    items: bool = False,
) -> RawScore:
    """Return `merge_model` as a score function; ``items`` as for `outputs_of`."""
    graphdef = parts.training if training else parts.inference
    return RawScore(graphdef, (params, parts.fixed, batch_stats, parts.other), axis_name, items)


def start(parts: SplitModel, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731  buffers are donated, so none may be shared
    return TrainState(
        step=jnp.int32(0),
        params=copy(parts.params),
        batch_stats=copy(parts.batch_stats),
        optimizer=optimizer.init(parts.params),
        loss_sum=jnp.float32(0),
        best_params=copy(parts.params),
        best_batch_stats=copy(parts.batch_stats),
        best_correlation=jnp.float32(-jnp.inf),
        best_epoch=jnp.int32(0),
    )


def digest(parts: SplitModel, stages: Collection[str]) -> str:
    """Return the SHA-256 of everything these backbone stages compute with: equal digests, equal activations."""
    held = [
        tree.get("backbone", {}).get("stage", {}).get(stage)
        for tree in (parts.fixed, parts.batch_stats, parts.other)
        for stage in stages
    ]
    content = hashlib.sha256(repr(list(stages)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(held):
        content.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return content.hexdigest()
