"""Outputs of a trained metric in the unit of the labels, for losses that have a unit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from jaxiqa.models.metric import Metric
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import raw_outputs
from jaxiqa.train.state import SplitModel, merge_model, outputs_of, split_model

Line = tuple[float, float]
"""(k, b): k · output + b has the unit of the labels."""

SCORE = "score"
SCORES = (SCORE, "mirrored", "regions")
"""Outputs of the head of the score; only the first is there for whole images without labels of regions."""


def lines(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Line]:
    """Return the line of each output by least squares on the training images: minimise Σ(k · output + b − label)².

    An output that does not rise with the labels gets none: it stays as it is.

    >>> values = np.array([0.0, 1.0, 2.0])
    >>> found = lines({"score": values, "falling": -values}, 2 * values + 1)
    >>> {name: [round(value, 6) for value in line] for name, line in found.items()}
    {'score': [2.0, 1.0]}
    """
    found = {}
    for name, values in outputs.items():
        values = np.asarray(values, np.float64)
        if np.std(values) > 0:
            k, b = np.polyfit(values, labels, 1)
            if k > 0:
                found[name] = float(k), float(b)
    return found


def lines_of(model: Metric, images: Examples, labels: np.ndarray, batch_size: int) -> dict[str, Line]:
    """Return `lines` of a trained metric's outputs for whole images."""
    parts = split_model(model)
    whole = merge_model(parts, parts.params, parts.batch_stats)
    known = jax.eval_shape(lambda x: outputs_of(whole, x), images.inputs(0, 1))
    names = tuple(name for name in type(model).loss_weights if name in known)
    found = raw_outputs(parts, None, names)(parts.params, parts.batch_stats, images, batch_size)
    return lines(dict(zip(names, found.T, strict=True)), labels)


def on(found: Mapping[str, Line], name: str, values: Array) -> Array:
    """Return an output on its line; one without a line is unchanged."""
    k, b = found.get(SCORE if name in SCORES else name, (1.0, 0.0))
    return k * values + b


def in_label_units(parts: SplitModel, found: Mapping[str, Line]) -> SplitModel:
    """Return the metric with a loss that sees its outputs in the unit of the labels.

    A metric has no unit of its own: `jaxiqa.train.calibration` maps its scores to labels after each training. So a
    metric that goes on from a trained one would begin far from labels to which the mean squared error holds it.
    """
    return replace(parts, total_loss=partial(_mapped, parts.total_loss, dict(found)))


def _mapped(
    total_loss: Callable, found: Mapping[str, Line], outputs: Mapping[str, Array], mos: Array, loss: Callable
) -> Array:
    return total_loss({name: on(found, name, values) for name, values in outputs.items()}, mos, loss)
