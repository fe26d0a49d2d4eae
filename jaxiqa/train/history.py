"""The rows of metrics.jsonl: one for each finished epoch."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.core.files import write_text
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.train.divergence import unjudged
from jaxiqa.train.state import TrainState

log = logging.getLogger(__name__)


def epoch_row(
    state: TrainState, epoch: int, per_epoch: int, predictions: np.ndarray, mos: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Return the row of an epoch; correlations are None, with a warning, if its scores cannot be judged.

    Args:
        state: after the epoch.
        epoch: its number, from 1.
        per_epoch: steps of an epoch.
        predictions: scores of the validation images.
        mos: their labels.
        seconds: of the epoch's steps.
    """
    why = unjudged(predictions)
    if why:
        log.warning("epoch %d: %s; it cannot be the best epoch", epoch, why)
    return {
        "epoch": epoch,
        "step": int(state.step),
        "loss": float(state.loss_sum) / per_epoch,
        "validation_srocc": None if why else srocc(predictions, mos),
        "validation_plcc": None if why else plcc(predictions, mos),
        "seconds": seconds,
    }


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``metrics.jsonl`` in the folder of a run."""
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def rows_until(folder: Path, epoch: int) -> list[dict[str, Any]]:
    """Return the rows of finished epochs; drop an epoch that will run again, and name lost ones."""
    rows, path = {}, folder / "metrics.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows[int(row["epoch"])] = {**row, "step": int(row["step"]), "seconds": float(row["seconds"])}
        except (ValueError, TypeError, KeyError):
            log.warning("%s: a line cannot be read: %.60s", path, line)
    finished = range(1, epoch + 1)
    if lost := [number for number in finished if number not in rows]:
        log.warning("%s: epochs %s are missing; the training itself resumes exactly", path, lost)
    return [rows[number] for number in finished if number in rows]
