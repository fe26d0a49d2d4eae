"""Measure a model without attacks: agreement with human scores, and signs of masked gradients."""

import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from rich.markup import escape

from jaxiqa import models
from jaxiqa.attacks import check_masking
from jaxiqa.core.progress import messages
from jaxiqa.core.workers import Compute, alone
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import score_split
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import MaskingRow, ModelRow, PredictionRow


@dataclass(frozen=True)
class Predicted:
    """The scores of the labelled images, the seconds of scoring them, and what the model says about its scores."""

    scores: np.ndarray  # one per image
    seconds: float
    score_range: tuple[float, float]
    certificate: float | None


def predict(
    evaluated: EvaluatedModel, labelled: Split, input_size: tuple[int, int] | None, compute: Compute = alone
) -> None:
    """Score the labelled images; append missing prediction rows and the row of the model."""
    done = {image for (image,) in evaluated.query(PredictionRow).select("image")}
    known = evaluated.rows(ModelRow)
    if known and done.issuperset(labelled.ids):
        return
    (found,) = compute(predict_all, (evaluated, labelled), [input_size])
    assert labelled.mos is not None  # startup has checked it
    pairs = zip(labelled.ids, labelled.mos, found.scores, strict=True)
    rows = [
        PredictionRow(image, evaluated.name, evaluated.seed, float(mos), float(score))
        for image, mos, score in pairs
        if image not in done
    ]
    evaluated.add(rows)
    if known:
        return
    training = json.loads((evaluated.folder / "training.json").read_text())
    row = ModelRow(
        model=evaluated.name,
        seed=evaluated.seed,
        parameters=training["parameters"],
        score_low=found.score_range[0],
        score_high=found.score_range[1],
        validation_srocc=training["validation_srocc"],
        seconds_per_epoch=training["seconds_per_epoch"],
        seconds_per_test=found.seconds,
        test_images=len(labelled),
        certificate=found.certificate,
    )
    evaluated.add([row])


def predict_all(job: tuple[EvaluatedModel, Split], input_size: tuple[int, int] | None) -> Predicted:
    """Score all images, resized to this size."""
    evaluated, labelled = job
    model = models.load_run(evaluated.folder)
    score_fn = models.score_fn(model, input_size or labelled[0]["image"].shape[:2])
    scores, seconds = score_split(score_fn, labelled, batch_size=evaluated.batch or 8, size=input_size)
    certified = hasattr(model, "certificate")
    return Predicted(
        scores, seconds, model.score_range, model.certificate(1 / 255, evaluated.size) if certified else None
    )


def check_gradients(evaluated: EvaluatedModel, attacked: Split, count: int, compute: Compute = alone) -> None:
    """Check for masked gradients on the first ``count`` images; finished checks on as many images are not repeated."""
    rows = {row.check: row for row in evaluated.rows(MaskingRow) if row.images == count}
    if not count or (rows and len(rows) == next(iter(rows.values())).checks):
        return
    pixels = np.stack([attacked.read(index) for index in range(min(count, len(attacked)))])
    with messages.status(escape(f"{evaluated.title}: checking for masked gradients")):
        (checks,) = compute(masking_checks, evaluated, [pixels])
    evaluated.add(
        [
            MaskingRow(
                *(evaluated.name, evaluated.seed, c.name, c.value, c.limit, c.flagged, c.remedy if c.flagged else ""),
                images=count,
                checks=len(checks),
            )
            for c in checks
            if c.name not in rows
        ]
    )


def masking_checks(evaluated: EvaluatedModel, pixels: UInt8[np.ndarray, "b h w 3"]) -> Any:
    """Return the checks of `jaxiqa.attacks.check_masking` on these images."""
    images = jnp.asarray(pixels, jnp.float32) / 255
    return check_masking(evaluated.score_fn, images, jax.random.key(evaluated.seed), queries=100)
