"""What a variant of an experiment trains: weights to start from, blocks, frozen stages, additions to the loss."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from flax import nnx
from jax.tree_util import Partial

from jaxiqa import attacks, data, models
from jaxiqa.config import Adversarial, Block, Model, Variant, blocks_of
from jaxiqa.config.suggest import suggestion
from jaxiqa.core import registry
from jaxiqa.defenses import LABELS, adversarial_batch
from jaxiqa.models.hardening import block_options
from jaxiqa.models.metric import Metric
from jaxiqa.models.zoo import is_complete


def check_model(chosen: Model) -> None:
    """Raise ``ValueError`` for an unknown name or option; the message names the field."""
    if chosen.metric not in models.MODELS:
        raise ValueError(f"model.metric={chosen.metric!r}{suggestion(chosen.metric, models.MODELS)}")
    if chosen.backbone is not None and chosen.backbone not in models.BACKBONES:
        raise ValueError(f"model.backbone={chosen.backbone!r}{suggestion(chosen.backbone, models.BACKBONES)}")
    allowed = registry.parameters(models.MODELS[chosen.metric].metric).keys() - {"rngs", "backbone"}
    for name in ("width", "taps"):
        if getattr(chosen, name) is not None and name not in allowed:
            raise ValueError(f"model.{name}={getattr(chosen, name)!r}: {chosen.metric} has no {name}; leave it out")
    allowed -= {"width", "taps", "input_size"}  # these have fields of their own
    for option in chosen.options:
        if option not in allowed:
            raise ValueError(f"model.options: {chosen.metric} has no option {option!r}{suggestion(option, allowed)}")


def new_metric(chosen: Model, *, weights: bool, seed: int = 0) -> Metric:
    """Build the metric that an experiment starts from.

    Args:
        chosen: from the config, checked by `check_model`.
        weights: read ``chosen.weights``; False: random weights.
        seed: of random weights.

    Raises:
        FileNotFoundError: the file of weights does not exist.
        ValueError: an option that is not allowed, or weights of something else.
    """
    options: dict[str, Any] = {"width": chosen.width, "taps": chosen.taps}
    if "input_size" in registry.parameters(models.MODELS[chosen.metric].metric):  # others get images of this size
        options["input_size"] = chosen.input_size
    return models.build(
        chosen.backbone,
        metric=chosen.metric,
        weights=weights_of(chosen) if weights and chosen.weights else None,
        seed=seed,
        **options,
        **chosen.options,
    )


def weights_of(chosen: Model) -> str | Path:
    """Return the known name of the weights, of the metric or of its backbone, an address on the hub, or a path."""
    assert chosen.weights is not None
    known = {*models.MODELS[chosen.metric].weights}
    if chosen.backbone:
        known |= models.BACKBONES[chosen.backbone].weights.keys()
    return chosen.weights if chosen.weights in known else run_path(chosen.weights)


def run_path(weights: str) -> str | Path:
    """Return the path of a file or folder that a config names.

    An address on the hub, or the name of a metric that comes with the package, is returned unchanged.
    """
    return weights if is_complete(weights) else data.resolve(weights)


def control_tail(model: Metric, variant: Variant, *, rngs: nnx.Rngs, where: str = "") -> Metric:
    """Return the metric with the variant's norm-controlled tail; without one, the metric itself.

    Args:
        model: the metric from which the variant starts; it is not changed.
        variant: the variant.
        rngs: random numbers for the tail's weights.
        where: its field in the config, for errors.

    Raises:
        ValueError: an unknown stage, or a metric with a network of its own; the message names the field.
    """
    chosen = variant.tail
    if chosen is None:
        return model
    if hasattr(model, "backbone") and chosen.after not in (known := stages_of(model)):
        raise ValueError(f"{where}.tail.after={chosen.after!r}: no such stage{suggestion(chosen.after, known)}")
    options = {"channels": chosen.channels, "depth": chosen.depth}
    try:
        return models.control_tail(model, after=chosen.after, **options, rngs=rngs)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}.tail: {error}") from error


SWAPS: dict[str, Callable[[Metric, Any], None]] = {
    "activation": lambda model, chosen: models.swap_activation(model, chosen, part="backbone"),
    "head_activation": lambda model, chosen: models.swap_activation(model, chosen, part="head"),
    "blur": lambda model, chosen: models.blur_strides(model, chosen),
    "pooling": lambda model, chosen: models.swap_pooling(model, chosen),
}
"""Field of a variant that changes the metric but no parameter -> how."""


def swap_parts(model: Metric, variant: Variant, *, where: str = "") -> None:
    """Swap the activations and the pooling that the variant names, and blur strided layers, in place.

    Args:
        model: the metric from which the variant starts.
        variant: the variant.
        where: its field in the config, for errors.

    Raises:
        ValueError: the metric has nothing that can be swapped; the message names the field.
    """
    for field, swap in SWAPS.items():
        if (chosen := getattr(variant, field)) is None:
            continue
        try:
            swap(model, chosen)
        except ValueError as error:
            raise ValueError(f"{where}.{field}={chosen!r}: {error}") from error


def filter_images(model: Metric, variant: Variant, *, where: str = "") -> None:
    """Filter the images as the variant says, in place; without a filter, nothing changes.

    Args:
        model: the metric from which the variant starts.
        variant: the variant.
        where: its field in the config, for errors.

    Raises:
        ValueError: a threshold out of range, a second filter, or a metric without stages; the message names the field.
    """
    if variant.filter is None:
        return
    try:
        models.filter_images(model, variant.filter)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}.filter={variant.filter!r}: {error}") from error


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
    try:
        known = stages_of(model)
        place, mid = models.resolve_position(block.where, model.backbone)
    except ValueError as error:
        raise ValueError(f"{where}.where: {error}") from error
    stage = place.partition(":")[2]
    if stage not in known:
        raise ValueError(f"{where}.where={block.where!r}: no stage {stage!r}{suggestion(stage, known)}")
    allowed = block_options(block.kind)
    for option in block.options:
        if option not in allowed:
            raise ValueError(f"{where}.options: {block.kind} has no option {option!r}{suggestion(option, allowed)}")
    given = block.options.keys() | ({"mid"} if mid is not None else set())
    for option, needed in allowed.items():
        if needed and option not in given:
            example = {"mid": 40, "share": 0.5, "threshold": 0.1}[option]
            raise ValueError(f"{where}.options: {block.kind} needs {option!r}, such as {{{option!r}: {example}}}")


def stages_of(model: Metric) -> list[str]:
    """Return the names of the backbone's groups of stages, then of its stages.

    Raises:
        ValueError: the metric has no backbone of named stages.
    """
    if not hasattr(model, "backbone"):
        raise ValueError(f"a {type(model).__name__} has no backbone of named stages")
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
    """Return whether training changes, crops or inverts images, so that a frozen trunk's output cannot be stored."""
    training = variant.training
    added = training.adversarial or training.norm_penalty or training.jacobian or training.spectral
    return bool(added or training.taught or training.crops or training.flip == "both")


def augmentation(chosen: Adversarial, *, low: float, high: float, distance: Callable | None = None) -> Any:
    """Return the `augment` of `jaxiqa.train.loop.fit`: attacked images, with or without the clean ones.

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
        partial(adversarial_batch, target=chosen.target, clean=chosen.clean, weakest=chosen.weakest),
        attacks.make(chosen.attack, **{**chosen.options, strength: chosen.epsilon}),
        low=low,
        high=high,
        distance=distance or Partial(LABELS[chosen.label]),
        penalty=chosen.penalty,
    )
