"""Build an average of trained variants: it is not trained, only mapped to the scale of the labels."""

from typing import Any

import jax

from jaxiqa import models
from jaxiqa.config import Average, Experiment, run_folder
from jaxiqa.core.processes import locked_by_first
from jaxiqa.measures.correlation import srocc
from jaxiqa.models.averaged import Averaged
from jaxiqa.train.calibration import fit_linear
from jaxiqa.train.examples import image_source
from jaxiqa.train.loop import raw_scores
from jaxiqa.train.state import split_model

BATCH = 8
"""Images that are scored at once."""


def averaged_variant(
    experiment: Experiment, name: str, seed: int, splits: dict[str, Any]
) -> tuple[Averaged, dict[str, Any]]:
    """Load the members of an average; fit the map of its score to the labels of the training images.

    Args:
        experiment: the experiment.
        name: of an `jaxiqa.config.Average` in it, whose members are trained.
        seed: of the members.
        splits: the result of `jaxiqa.train.experiment.load_data`.

    Returns:
        The calibrated metric, and the content of training.json.

    Raises:
        FileNotFoundError: a member is not trained.
        FloatingPointError: the scores of the training images are equal, not finite, or fall as the labels rise.
    """
    chosen = experiment.variants[name]
    assert isinstance(chosen, Average)
    members = []
    for member in chosen.members:
        folder = run_folder(experiment, member, seed)
        with locked_by_first(folder, wait=60.0):  # another process may be reading it too
            members.append(models.load_run(folder))
    model = models.average(members, mirror=chosen.mirror)
    parts = split_model(model)
    score = raw_scores(parts, None)
    size = experiment.model.input_size
    train, validation = (image_source(splits[part], size) for part in ("train", "val"))
    raw = score(parts.params, parts.batch_stats, train, BATCH)
    correlation = srocc(score(parts.params, parts.batch_stats, validation, BATCH), validation.mos)
    try:
        k, b = fit_linear(raw, train.mos)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name} seed {seed}: {error}") from error
    model.calibrate(k=k, b=b, score_range=(float(k * raw.min() + b), float(k * raw.max() + b)))
    row = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves((parts.params, parts.fixed))),
        "validation_srocc": correlation,
        "best_epoch": None,
        "seconds_per_epoch": 0.0,
    }
    return model, row
