"""Variants that are not trained: saved metrics, and averages, which are only mapped to the scale of the labels."""

from typing import Any

import jax

from jaxiqa import models
from jaxiqa.config import Average, Experiment, Saved
from jaxiqa.measures.correlation import srocc
from jaxiqa.models.metric import Metric
from jaxiqa.train.additions import trained
from jaxiqa.train.calibration import fit_linear
from jaxiqa.train.examples import image_source
from jaxiqa.train.loop import raw_scores
from jaxiqa.train.state import split_model
from jaxiqa.train.variant import run_path

BATCH = 8
"""Images that are scored at once."""


def untrained_variant(experiment: Experiment, name: str, seed: int, splits: dict[str, Any]) -> tuple[Metric, dict]:
    """Return a saved metric as it is, or an average of variants of one seed with its map to the training labels.

    Args:
        experiment: the experiment.
        name: of a `jaxiqa.config.Saved` in it, or of a `jaxiqa.config.Average` whose members are finished.
        seed: of the members.
        splits: the result of `jaxiqa.train.experiment.load_data`.

    Returns:
        The metric, and the content of training.json.

    Raises:
        FileNotFoundError: a member is not finished, or there is no such metric.
        FloatingPointError: the average's scores of the training images are equal, not finite, or fall as the labels
            rise.
    """
    chosen = experiment.variants[name]
    model = models.load_run(run_path(chosen.weights)) if isinstance(chosen, Saved) else None
    if isinstance(chosen, Average):
        model = models.average([trained(experiment, member, seed) for member in chosen.members], mirror=chosen.mirror)
    assert model is not None
    parts = split_model(model)
    score = raw_scores(parts, None)
    size = experiment.model.input_size
    if isinstance(chosen, Average):
        train = image_source(splits["train"], size)
        raw = score(parts.params, parts.batch_stats, train, BATCH)
        try:
            k, b = fit_linear(raw, train.mos)
        except FloatingPointError as error:
            raise FloatingPointError(f"{name} seed {seed}: {error}") from error
        model.calibrate(k=k, b=b, score_range=(float(k * raw.min() + b), float(k * raw.max() + b)))
    validation = image_source(splits["val"], size)
    row = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((parts.params, parts.fixed))),
        "validation_srocc": srocc(score(parts.params, parts.batch_stats, validation, BATCH), validation.mos),
        "best_epoch": None,
        "seconds_per_epoch": 0.0,
    }
    return model, row
