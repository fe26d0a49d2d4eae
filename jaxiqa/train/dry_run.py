"""Run a training on shapes: find without computing anything which variants do not fit the images."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxiqa.config import Experiment, Training, blocks_of, trained_variants
from jaxiqa.config.identity import chain
from jaxiqa.config.suggest import suggestion
from jaxiqa.data.pipeline import check_crop
from jaxiqa.defenses import LABELS
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.variant import (
    augmentation,
    control_tail,
    filter_images,
    frozen_stages,
    insert_blocks,
    needs_images,
    new_metric,
    stages_of,
)


def check_forward(experiment: Experiment, shapes: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise ``ValueError`` if images of this size cannot pass a variant in training, or its attack.

    Args:
        experiment: the experiment.
        shapes: the result of `abstract_models`.
        size: (height, width) of the images.
    """
    images = jax.ShapeDtypeStruct((2, *size, 3), np.float32)
    labels, key = jax.ShapeDtypeStruct((2,), np.float32), jax.random.key(0)
    seen: list[Any] = []
    for name, variant in trained_variants(with_recipes(experiment)).items():
        where, model, chosen = f"variants.{name}", shapes[name], variant.training.adversarial
        stored = model.restartable and not needs_images(variant)
        trunk = frozen_stages(model, variant.training.freeze) if stored else ()
        if (id(model), trunk) not in seen:
            seen.append((id(model), trunk))
            with named(f"{where}: images of {size[0]}x{size[1]} pixels"):
                _pass(model, trunk, images)
        if variant.training.crops:
            _check_crops(f"{where}.training", variant.training, model, size)
        if (distil := variant.training.distil) and distil.target != "teacher":
            h, w = shown = (variant.training.crop if variant.training.crops else None) or size
            with named(f"{where}.training.distil.target={distil.target!r}: images of {h}x{w} pixels"):
                pixels = jax.ShapeDtypeStruct((2, *shown, 3), np.float32)
                jax.eval_shape(LABELS[distil.target], pixels, pixels)
        if chosen and chosen.distance is None and dataclasses.replace(chosen, epsilon=0.0) not in seen:
            seen.append(dataclasses.replace(chosen, epsilon=0.0))
            with named(f"{where}.training.adversarial: images of {size[0]}x{size[1]} pixels"):
                attacked = augmentation(chosen, low=0.0, high=1.0)
                jax.eval_shape(lambda x, y, to=attacked: to(lambda z: z.mean((1, 2, 3)), x, y, key), images, labels)


def _check_crops(where: str, training: Training, model: Any, size: tuple[int, int]) -> None:
    """Raise ``ValueError`` if images of ``size`` are smaller than a crop, or the network does not take the crops."""
    crop, resized = training.crop, training.resize or size
    assert crop is not None
    assert training.patches
    with named(where):
        check_crop(crop, resized, where="an image")
    pixels = jax.ShapeDtypeStruct((2, training.patches * crop[0], crop[1], 3), np.float32)
    graphdef, state = nnx.split(model)
    with named(f"{where}.crop={crop}"):
        jax.eval_shape(lambda state, pixels: nnx.merge(graphdef, state).item_outputs(pixels), state, pixels)


def _pass(model: Any, trunk: tuple[str, ...], images: Any) -> None:
    graphdef, state = nnx.split(model)

    def outputs(state: Any, images: Any) -> Any:
        model = nnx.merge(graphdef, state)
        return model.outputs_from(model.trunk(images, trunk[-1]), trunk[-1]) if trunk else model.outputs(images)

    jax.eval_shape(outputs, state, images)


def check_stage(where: str, stage: str, model: Any) -> None:
    with named(f"{where}={stage!r}"):
        known = stages_of(model)
    if stage not in known:
        raise ValueError(f"{where}={stage!r}: no such stage{suggestion(stage, known)}")


@contextmanager
def named(label: str) -> Iterator[None]:
    """Add the field's name to an error."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{label}: {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label}: {error}") from error


def abstract_models(experiment: Experiment) -> dict[str, Any]:
    """Return the metric of each trained variant, as shapes; one object for variants with the same stages.

    Raises:
        ValueError: the backbone, a tap, a tail or a block does not fit; the message names the field.
    """
    variants = trained_variants(experiment)
    if not variants:
        return {}
    with named("model"):
        plain = nnx.eval_shape(lambda: new_metric(dataclasses.replace(experiment.model, taps=None), weights=False))
    if taps := experiment.model.taps:
        for tap in taps:
            check_stage("model.taps", tap, plain)
        with named("model"):
            plain = nnx.eval_shape(lambda: new_metric(experiment.model, weights=False))
    shapes: dict[str, Any] = {}
    for name, variant in variants.items():
        if not blocks_of(variant) and not variant.tail and variant.filter is None:
            shapes[name] = shapes[variant.parent] if variant.parent else plain
            continue

        def make(links: list[str] = chain(experiment, name)) -> Any:  # noqa: B008
            model = new_metric(experiment.model, weights=False)
            for link in links:
                where, rngs = f"variants.{link}", nnx.Rngs(0)
                model = control_tail(model, variants[link], rngs=rngs, where=where)
                filter_images(model, variants[link], where=where)
                insert_blocks(model, variants[link], rngs=rngs, where=where)
            return model

        shapes[name] = nnx.eval_shape(make)
    return shapes
