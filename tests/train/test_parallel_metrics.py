"""Two devices give the gradients of one for published metrics with dropout, batch norm and a ranking of the batch.

In float64, as in test_parallel. Each control breaks one of the things that devices share, and must change the result.
"""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from test_every_metric import SMALL

from jaxiqa.models import MODELS
from jaxiqa.train import state
from jaxiqa.train.losses import LOSSES
from jaxiqa.train.parallel import AXIS, data_parallel
from jaxiqa.train.state import split_model, start
from jaxiqa.train.step import DEFAULTS, make_step

pytestmark = pytest.mark.slow
SIZES = {"metaiqa": (224, 224), "paq2piq": (48, 64), "tres": (224, 224)}
CROPS = {"tres"}
"""Metrics that train on crops: TReS ranks their scores (`jaxiqa.models.tres_ranking.ranking_triplets`)."""
COUNT = 4


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if np.issubdtype(x.dtype, np.floating) else x, tree)


@pytest.fixture(scope="module", params=["metaiqa", "paq2piq", pytest.param("tres", marks=pytest.mark.release)])
def metric(request, float64):
    name = request.param
    parts = split_model(MODELS[name].metric(rngs=nnx.Rngs(0), **SMALL[name]))
    parts = replace(
        parts, **{field: wide(getattr(parts, field)) for field in ("params", "fixed", "batch_stats", "other")}
    )
    random = np.random.default_rng(0)
    images = random.uniform(size=(COUNT, *SIZES[name], 3)) * np.linspace(0.2, 1, COUNT)[:, None, None, None]
    batch = {"image": images, "mos": np.array([80.0, 20.0, 50.0, 0.0])}
    return name, parts, batch, gradient(name, parts, batch, devices=1)


def gradient(name, parts, batch, *, devices):
    """Return loss, gradients and batch norm statistics of one step of plain descent, by name."""
    loss = LOSSES[MODELS[name].metric.recipe.loss]
    step = make_step(parts, loss, optax.sgd(1.0), items=name in CROPS, axis_name=AXIS)
    step = data_parallel(step, devices=jax.local_devices()[:devices])
    before = start(parts, optax.sgd(1.0))
    kept = jax.tree.map(np.array, before.params)
    after, value = step(before, {"fixed": parts.fixed, "other": parts.other, "masks": {}, **DEFAULTS}, batch)
    gradients = jax.tree.map(lambda old, new: old - np.asarray(new), kept, after.params)
    found = {"loss": value, "gradient": gradients, "statistics": after.batch_stats}
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(found)}


def worst(found, expected):
    """Return the largest difference of an array, relative to its largest value (or 1e-6 of the largest gradient)."""
    assert found.keys() == expected.keys()
    assert {array.dtype for array in found.values()} == {np.dtype("float64")}
    floor = 1e-6 * max(np.abs(x).max() for key, x in expected.items() if "gradient" in key)
    return max(np.abs(found[key] - x).max() / max(np.abs(x).max(), floor) for key, x in expected.items())


def test_two_devices_equal_one(metric):
    name, parts, batch, one = metric
    assert max(np.abs(x).max() for key, x in one.items() if "gradient" in key) > 1e-3
    assert worst(gradient(name, parts, batch, devices=2), one) < 1e-8


def test_dropout_drawn_per_device_is_seen(metric, monkeypatch):
    """Without the device's place in the batch, both would drop the same."""
    name, parts, batch, one = metric
    if name in CROPS:
        pytest.skip("seen on the other metrics, which compile in a fifth of the time")
    monkeypatch.setattr(jax.lax, "axis_index", lambda axis: 0)
    assert worst(gradient(name, parts, batch, devices=2), one) > 1e-3


def test_a_loss_per_device_is_seen_where_it_compares_images(metric, monkeypatch):
    """The mean squared error of two devices is the mean of theirs; the ranking of TReS is not."""
    name, parts, batch, one = metric
    monkeypatch.setattr(jax.lax, "all_gather", lambda x, axis, **options: x)
    difference = worst(gradient(name, parts, batch, devices=2), one)
    assert (difference > 1e-3) == (name == "tres")


def test_statistics_per_device_are_seen_where_there_are_batch_norms(metric, monkeypatch):
    """Batch norm takes the statistics of the whole batch, in the heads too."""
    name, parts, batch, one = metric
    if name in CROPS:
        pytest.skip("seen on the other metrics, which compile in a fifth of the time")
    merge = state._merge
    monkeypatch.setattr(state, "_merge", lambda graphdef, states, axis_name: merge(graphdef, states, None))
    assert parts.batch_stats
    assert worst(gradient(name, parts, batch, devices=2), one) > 1e-3
