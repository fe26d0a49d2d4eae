"""What a variant of an experiment trains: weights to start from, blocks, frozen stages, additions to the loss."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx
from jax.tree_util import Partial

from jaxiqa import attacks, data, models
from jaxiqa.config import Adversarial, Block, Experiment, NormPenalty, Variant, blocks_of
from jaxiqa.config.suggest import suggestion
from jaxiqa.core import registry
from jaxiqa.defenses import LABELS, adversarial_batch, norm_penalty
from jaxiqa.layers import Bottleneck, RobustBlock, SquarePool
from jaxiqa.models.metric import Metric

BLOCKS = {"robust_block": RobustBlock, "bottleneck": Bottleneck, "square_pool": SquarePool}


def backbone_weights(experiment: Experiment) -> str | Path | None:
    """Return the file of ``model.weights``, or the name if the backbone knows weights of this name, or None."""
    chosen = experiment.model
    if not chosen.weights:
        return None
    named = chosen.weights in models.BACKBONES[chosen.backbone].weights
    return chosen.weights if named else data.resolve(chosen.weights)


def insert_blocks(model: Metric, variant: Variant, *, rngs: nnx.Rngs, where: str = "") -> tuple[str, ...]:
    """Insert the variant's blocks, in order.

    Args:
        model: the metric from which the variant starts; changed in place.
        variant: the variant.
        rngs: random numbers for the weights of all blocks.
        where: its field in the config, for errors.

    Returns:
        The names of the blocks that are not trained.

    Raises:
        ValueError: an unknown place or option; the message names the field.
    """
    held = []
    for label, block in blocks_of(variant, where).items():
        _check_block(label, block, model)
        try:
            models.harden(
                model, block.where, block.kind, rngs=rngs, name=_free_name(model, block.kind), **block.options
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{label}: {error}") from error
        if not block.trainable:
            held.append(model.insertions[-1].name)
    return tuple(held)


def _check_block(where: str, block: Block, model: Metric) -> None:
    """Raise ``ValueError`` for a stage or option that does not exist; the message suggests the nearest name."""
    stage, known = block.where.partition(":")[2], stages_of(model)
    if stage not in known:
        raise ValueError(f"{where}.where={block.where!r}: no stage {stage!r}{suggestion(stage, known)}")
    parameters = registry.parameters(BLOCKS[block.kind])
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # of a block without options
    allowed = [
        option
        for option, parameter in parameters.items()
        if option not in ("features", "rngs") and parameter.kind not in open_ended
    ]
    for option in block.options:
        if option not in allowed:
            raise ValueError(f"{where}.options: {block.kind} has no option {option!r}{suggestion(option, allowed)}")
    for option in allowed:
        if parameters[option].default is inspect.Parameter.empty and option not in block.options:
            raise ValueError(f"{where}.options: {block.kind} needs {option!r}, such as {{{option!r}: 40}}")


def stages_of(model: Metric) -> list[str]:
    """Return the names of the backbone's groups of stages, then of its stages."""
    order = model.backbone.order
    return list(dict.fromkeys([*(stage.partition(".")[0] for stage in order), *order]))


def _free_name(model: Metric, kind: str) -> str:
    """Return ``robust_block``, or else ``robust_block_2`` and so on."""
    names, number, name = {insertion.name for insertion in model.insertions}, 1, kind
    while name in names:
        number += 1
        name = f"{kind}_{number}"
    return name


def frozen_stages(model: Metric, freeze: str | None) -> tuple[str, ...]:
    """Return all stages up to ``freeze``; none for None."""
    return model.backbone.order[: model.backbone.span(freeze)[1] + 1] if freeze else ()


def needs_images(variant: Variant) -> bool:
    """Return whether training changes or shifts the images, so that a frozen trunk's output cannot be stored."""
    return bool(variant.training.adversarial or variant.training.norm_penalty)


def augmentation(chosen: Adversarial, *, low: float, high: float, distance: Callable | None = None) -> Any:
    """Return the `augment` of `jaxiqa.train.loop.fit`: attacked copies besides the images of a batch.

    Args:
        chosen: from the config.
        low, high: lowest and highest label, standardised.
        distance: the network of the label "lpips".

    Raises:
        ValueError: an attack or option that does not exist, or a strength out of range.
    """
    strength = attacks.strength_option(chosen.attack)
    if strength in chosen.options:
        raise ValueError(f"options.{strength} is set by `epsilon`; remove it from options")
    return Partial(
        partial(adversarial_batch, target=chosen.target),
        attacks.make(chosen.attack, **{**chosen.options, strength: chosen.epsilon}),
        low=low,
        high=high,
        distance=distance or Partial(LABELS[chosen.label]),
        penalty=chosen.penalty,
    )


def slope_penalty(chosen: NormPenalty) -> Any:
    """Return the `penalty` of `jaxiqa.train.loop.fit`: a price on steep scores."""
    return Partial(partial(norm_penalty, scale_free=chosen.scale_free), step=chosen.step, weight=chosen.weight)
