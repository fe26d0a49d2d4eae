"""The optimiser of a training: Adam, rates per group and over time, weight decay, and a moving average of weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxiqa.config import Training
from jaxiqa.train.manifold import has_matrices, on_manifold, orthogonalised

Tree = dict[Any, Any]


def make_optimizer(
    params: Tree, training: Training, *, steps_per_epoch: int, pretrained: frozenset[str] = frozenset()
) -> optax.GradientTransformation:
    """Return Adam with the rates of `learning_rates`, the backbone's for stages that start from trained weights.

    Args:
        params: the trained parameters, by module path.
        training: complete (`jaxiqa.train.recipes.with_recipes`).
        steps_per_epoch: number of steps in an epoch.
        pretrained: names of the backbone stages with the backbone's rate.

    With ``weight_decay``, ``weight_decay · weight`` is added to each gradient before Adam (as in PyTorch's Adam, not
    AdamW). Parameters that must stay orthogonal take steps along their manifold (`jaxiqa.train.manifold`).
    """
    head, backbone = learning_rates(training, steps_per_epoch)

    def adam(rate: optax.Schedule) -> optax.GradientTransformation:
        if has_matrices(params):
            decay = optax.add_decayed_weights(training.weight_decay)
            direction = optax.scale_by_adam()
            return on_manifold(rate, optax.chain(decay, direction) if training.weight_decay else direction)
        if not training.weight_decay:
            return optax.adam(rate)
        return optax.chain(optax.add_decayed_weights(training.weight_decay), optax.adam(rate))

    def group(path: tuple, _: Array) -> str:
        keys = [entry.key for entry in path]
        return "backbone" if keys[:2] == ["backbone", "stage"] and keys[2] in pretrained else "head"

    groups = jax.tree_util.tree_map_with_path(group, params)
    optimizer = optax.multi_transform({"head": adam(head), "backbone": adam(backbone)}, groups)
    return optax.chain(optimizer, weight_average(training.average)) if training.average else optimizer


def learning_rates(training: Training, steps_per_epoch: int) -> tuple[optax.Schedule, optax.Schedule]:
    """Return the rates of head and backbone, as functions of the number of steps done.

    rate · schedule · warm-up, with

    - "steps": ``decay_factor^⌊epoch / decay_every⌋``,
    - "cosine": ``(1 + cos(π · epoch / decay_every)) / 2``, with the fractional epoch,
    - warm-up: ``min(1, (step + 1) / (warmup · steps_per_epoch))``.

    >>> rate = ((0, 1e-2), (5, 1e-3))
    >>> training = Training(10, learning_rate=rate, backbone_factor=0.5, schedule="cosine", warmup=1.0)
    >>> head, backbone = learning_rates(training, steps_per_epoch=4)
    >>> [round(float(head(step)), 5) for step in (0, 4, 19, 20, 40)]
    [0.0025, 0.00976, 0.00539, 0.0005, 0.0]
    >>> float(backbone(4) / head(4))
    0.5
    """

    def scale(step: Any) -> Any:
        epoch = step / steps_per_epoch
        if training.schedule == "cosine":
            whole = training.decay_every or training.epochs
            assert whole is not None
            factor = (1 + jnp.cos(jnp.pi * epoch / whole)) / 2
        elif training.decay_every:
            assert training.decay_factor is not None
            factor = training.decay_factor ** (step // (training.decay_every * steps_per_epoch))
        else:
            factor = jnp.float32(1)
        if training.warmup:
            factor = factor * jnp.minimum(1.0, (step + 1) / (training.warmup * steps_per_epoch))
        return factor

    def head(step: Any) -> Any:
        return _value(training.learning_rate, step // steps_per_epoch) * scale(step)

    def backbone(step: Any) -> Any:
        return head(step) * _value(training.backbone_factor, step // steps_per_epoch)

    return head, backbone


def _value(rate: Any, epoch: Any) -> Any:
    """Return the number of a `jaxiqa.config.training.Rate` at an epoch."""
    if not isinstance(rate, tuple):
        return rate
    starts, values = zip(*rate, strict=True)
    return jnp.asarray(values, jnp.float32)[jnp.searchsorted(jnp.asarray(starts), epoch, side="right") - 1]


class Average(NamedTuple):
    """State of `weight_average`: the number of steps, and the average."""

    steps: Array
    average: Any


def weight_average(decay: float) -> optax.GradientTransformation:
    """Return a transformation that changes nothing and keeps a moving average of the parameters in its state.

    ``average ← d · average + (1 − d) · parameters`` after each step t, with ``d = min(decay, (1 + t) / (10 + t))``, so
    that the random start is soon forgotten. It must be the last part of a chain.

    >>> optimizer = optax.chain(optax.sgd(1.0), weight_average(0.5))
    >>> state = optimizer.init({"a": jnp.float32(0)})
    >>> updates, state = optimizer.update({"a": jnp.float32(-1)}, state, {"a": jnp.float32(0)})  # the weight becomes 1
    >>> round(float(averaged(state)["a"]), 3)
    0.818
    """

    def init(params: Any) -> Average:
        return Average(jnp.int32(0), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Average, params: Any = None) -> tuple[Any, Average]:
        count = state.steps + 1
        d = jnp.minimum(decay, (1 + count) / (10 + count))
        new = optax.apply_updates(params, updates)
        return updates, Average(
            count, jax.tree.map(lambda a, p: (d * a + (1 - d) * p).astype(p.dtype), state.average, new)
        )

    return optax.GradientTransformation(init, update)


def averaged(state: Any) -> Any:
    """Return the moving average in the state of an optimiser; None without one.

    Of orthogonal matrices it is the orthogonal matrix that is nearest to their mean.
    """
    found = [part.average for part in jax.tree.leaves(state, is_leaf=_is_average) if _is_average(part)]
    return orthogonalised(found[0]) if found else None


def _is_average(part: Any) -> bool:
    return isinstance(part, Average)
