"""Measure a model without attacks: agreement with human scores, and signs of masked gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape

from jaxiqa import models
from jaxiqa.attacks import check_masking
from jaxiqa.core.progress import messages
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import score_split
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import MaskingRow, ModelRow, PredictionRow


def predict(evaluated: EvaluatedModel, labelled: Split, input_size: tuple[int, int] | None) -> None:
    """Score the labelled images; append missing prediction rows and the row of the model."""
    done = {image for (image,) in evaluated.query(PredictionRow).select("image")}
    known = evaluated.rows(ModelRow)
    if known and done.issuperset(labelled.ids):
        return
    model = models.load_run(evaluated.folder)
    score_fn = models.score_fn(model, input_size or labelled[0]["image"].shape[:2])
    scores, seconds = score_split(score_fn, labelled, batch_size=evaluated.batch or 8, size=input_size)
    assert labelled.mos is not None  # startup has checked it
    pairs = zip(labelled.ids, labelled.mos, scores, strict=True)
    rows = [
        PredictionRow(image, evaluated.name, evaluated.seed, float(mos), float(score))
        for image, mos, score in pairs
        if image not in done
    ]
    evaluated.add(rows)
    if known:
        return
    training = json.loads((evaluated.folder / "training.json").read_text())
    low, high = model.score_range
    certified = hasattr(model, "certificate")
    row = ModelRow(
        model=evaluated.name,
        seed=evaluated.seed,
        parameters=training["parameters"],
        score_low=low,
        score_high=high,
        validation_srocc=training["validation_srocc"],
        seconds_per_epoch=training["seconds_per_epoch"],
        seconds_per_test=seconds,
        test_images=len(labelled),
        certificate=model.certificate(1 / 255, evaluated.size) if certified else None,
    )
    evaluated.add([row])


def check_gradients(evaluated: EvaluatedModel, attacked: Split, count: int) -> None:
    """Check for masked gradients on the first ``count`` images; finished checks on as many images are not repeated."""
    rows = {row.check: row for row in evaluated.rows(MaskingRow) if row.images == count}
    if not count or (rows and len(rows) == next(iter(rows.values())).checks):
        return
    pixels = [attacked.read(index) for index in range(min(count, len(attacked)))]
    images = jnp.asarray(np.stack(pixels), jnp.float32) / 255
    with messages.status(escape(f"{evaluated.title}: checking for masked gradients")):
        checks = check_masking(evaluated.score_fn, images, jax.random.key(evaluated.seed), queries=100)
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
