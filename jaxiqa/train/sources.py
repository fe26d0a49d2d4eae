"""The examples of a training: images, crops, the stored output of a frozen trunk, or images without labels."""

from dataclasses import replace

import numpy as np
from flax import nnx

from jaxiqa import data
from jaxiqa.config import Distil, Experiment, Training, trained_variants
from jaxiqa.config.suggest import suggestion
from jaxiqa.core.progress import progress_bar
from jaxiqa.train.examples import Examples, activation_source, crop_source, image_source
from jaxiqa.train.state import SplitModel, digest, merge_model
from jaxiqa.train.variant import needs_images


def sources(
    experiment: Experiment, name: str, parts: SplitModel, trunk: tuple[str, ...], splits: dict, trunks: dict
) -> tuple:
    """Return training and validation examples: images, or the output of a frozen trunk, computed once.

    Variants with the same trunk share it through ``trunks``, which holds the last two.
    """
    variant = trained_variants(experiment)[name]
    training = variant.training
    size, unit = experiment.model.input_size, training.labels
    assert unit is not None
    images = {
        "train": example_source(splits["train"], size, training),
        "val": image_source(splits["val"], size, unit=unit),
    }
    if not trunk or needs_images(variant):
        return images["train"], images["val"]
    flips, batch_size = training.flip, training.batch_size
    assert flips is not None
    assert batch_size is not None
    stage = merge_model(parts, parts.params, parts.batch_stats).backbone.stage
    structure = repr([nnx.graphdef(stage[name]) for name in trunk])  # activations, blurs and options of blocks
    key = (flips, digest(parts, trunk), structure)
    if key not in trunks:
        while len(trunks) > 1:
            trunks.pop(next(iter(trunks)))
        with progress_bar(f"{name}: frozen stages", "images") as bar:
            trunks[key] = tuple(
                activation_source(parts, source, trunk[-1], flip=flip, batch_size=batch_size, progress=bar)
                for source, flip in ((images["train"], bool(flips)), (images["val"], False))
            )
    return trunks[key]


def example_source(split: data.Split, size: tuple[int, int] | None, training: Training) -> Examples:
    """Return the whole images of a split, or the crops that a training takes from them."""
    assert training.labels
    if not training.crops:
        return image_source(split, size, unit=training.labels)
    assert training.crop
    assert training.patches
    options: dict = {"unit": training.labels, "crops": training.crops, "patches": training.patches}
    return crop_source(split, training.resize or size, training.crop, **options)


def unlabelled_source(experiment: Experiment, name: str, splits: dict) -> Examples | None:
    """Return the images on which a variant learns from its teacher, shown like the labelled ones; None without one."""
    training = trained_variants(experiment)[name].training
    if training.distil is None:
        return None
    split = splits["train"] if training.distil.data is None else unlabelled_split(f"variants.{name}", training.distil)
    if training.distil.distorted:
        size = training.resize or experiment.model.input_size
        paired = training.distil.target != "teacher"
        split = data.distorted(split, training.distil.distorted, size=size, paired=paired)
        split = replace(split, mos=np.zeros(len(split), np.float32))
    return example_source(split, experiment.model.input_size, training)


def unlabelled_split(where: str, distil: Distil) -> data.Split:
    """Return the images that a `jaxiqa.config.Distil` names, with labels of 0, which are not used.

    Raises:
        ValueError: no such split; the message names the field, which begins with ``where``.
    """
    assert distil.data
    splits = data.load(distil.data.name, **distil.data.arguments)
    if distil.split not in splits:
        raise ValueError(f"{where}.training.distil.split={distil.split!r}{suggestion(distil.split, splits)}")
    split = splits[distil.split]
    return replace(split, mos=np.zeros(len(split), np.float32), regions=None)
