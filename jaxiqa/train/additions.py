"""What a variant adds to plain training: attacked images, softer labels, penalties."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from jaxiqa import models
from jaxiqa.config import Experiment, run_folder, trained_variants
from jaxiqa.config.identity import teacher_of
from jaxiqa.core.processes import locked_by_first
from jaxiqa.models.metric import Metric
from jaxiqa.train.examples import Examples
from jaxiqa.train.penalties import Affine, backbone_layers, make_penalty
from jaxiqa.train.state import raw_score_fn, split_model
from jaxiqa.train.step import DEFAULTS, Augment
from jaxiqa.train.units import Line
from jaxiqa.train.variant import augmentation, run_path


def additions(
    experiment: Experiment,
    name: str,
    seed: int,
    model: Metric,
    train: Examples,
    distances: dict,
    unit: Mapping[str, Line] | None = None,
) -> dict[str, Any]:
    """Return what a variant adds, as arguments of `jaxiqa.train.loop.fit`; its teacher is loaded.

    Args:
        experiment: complete (`jaxiqa.train.recipes.with_recipes`).
        name: of a trained variant.
        seed: of the run.
        model: the metric that is trained.
        train: its examples.
        distances: networks that lower labels of attacked images, by their entry in the config.
        unit: of the metric's outputs, see `jaxiqa.train.units`.
    """
    training, teacher = trained_variants(experiment)[name].training, teacher_scores(experiment, name, seed, train)
    layers = backbone_layers(model, training.freeze) if training.spectral else ()
    low, high = (float(label) for label in train.labels(np.array([train.mos.min(), train.mos.max()])))
    augment = None
    if chosen := training.adversarial:
        augment = augmentation(chosen, low=low, high=high, distance=distances.get(chosen.distance))
    more = augment if training.distil and training.distil.attacked else None
    if training.soft_labels:
        augment = Partial(soften, teacher, training.soft_labels.share, augment or DEFAULTS["augment"])
    return {
        "augment": augment,
        "penalty": make_penalty(
            training, layers=layers, teacher=teacher, unit=unit or {}, labels=(low, high), augment=more
        ),
        "attacked_mode": training.attacked_mode,
    }


def teacher_scores(experiment: Experiment, name: str, seed: int, train: Examples) -> Affine | None:
    """Return the scores of a variant's teacher in the unit of the labels; None without a teacher."""
    variant = trained_variants(experiment)[name]
    chosen = variant.training.taught
    zero, one = (float(label) for label in train.labels(np.array([0.0, 1.0])))  # labels are an affine map of scores
    if chosen and chosen.weights:
        taught = models.load_run(run_path(chosen.weights))
        return Affine(models.score_fn(taught), one - zero, zero)
    if known := teacher_of(variant):
        taught = trained(experiment, known, seed)
        k, b = (float(value) for value in taught.calibration[:2])
        parts = split_model(taught)
        raw = raw_score_fn(parts, parts.params, parts.batch_stats, items=bool(variant.training.crops))
        return Affine(raw, k * (one - zero), b * (one - zero) + zero)
    return None


def soften(
    teacher: Affine,
    share: Any,
    augment: Augment,
    score_fn: Callable,
    images: Array,
    mos: Array,
    keys: Any,
    *,
    gather: Callable,
) -> tuple[Array, Array]:
    """Replace each label by ``(1 − share) · label + share · teacher(image)``, then run ``augment``: an `Augment`.

    The teacher sees the image before any attack. Its scores are smoother than labels, which are noisy and belong to
    whole images, not to crops.

    Reference: "Distilling the Knowledge in a Neural Network", arXiv:1503.02531; for robust students "Adversarially
    Robust Distillation", arXiv:1905.09747.
    """
    softened = (1 - share) * mos + share * teacher(images)
    return augment(score_fn, images, softened, keys, gather=gather)


def trained(experiment: Experiment, name: str, seed: int) -> Metric:
    """Load a variant that is finished."""
    folder = run_folder(experiment, name, seed)
    with locked_by_first(folder, wait=60.0):  # another process may be reading it too
        return models.load_run(folder)
