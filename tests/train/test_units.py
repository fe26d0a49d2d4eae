"""A variant that goes on from a trained metric by a loss with a unit starts with its outputs in that of the labels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.tree_util import Partial

from jaxiqa import data, models
from jaxiqa.cli.train import train
from jaxiqa.config import Data, Distil, Evaluation, Experiment, Model, Training, Variant, run_folder
from jaxiqa.models.paq2piq import PaQ2PiQ
from jaxiqa.models.tres import TReS
from jaxiqa.train.examples import image_source
from jaxiqa.train.loop import raw_outputs
from jaxiqa.train.losses import ABSOLUTE, LOSSES, mse
from jaxiqa.train.penalties import make_penalty
from jaxiqa.train.state import merge_model, outputs_of, split_model
from jaxiqa.train.units import in_label_units, lines, lines_of, on


def test_losses_with_a_unit_are_those_that_an_offset_changes():
    scores = jnp.array([0.5, -1.0, 2.0, 0.1])
    changed = {name for name, loss in LOSSES.items() if abs(loss(scores + 3, scores) - loss(scores, scores)) > 1e-3}
    assert changed == set(ABSOLUTE)


def test_the_loss_starts_at_the_unexplained_variance_of_each_output():
    model = tiny.metric(seed=3)
    split = data.load("builtin", size=(40, 36), train=12, val=1, test=1)["train"]
    images = image_source(split, None)
    labels = images.labels(images.mos)
    names = tuple(type(model).loss_weights)
    parts = split_model(model)
    outputs = raw_outputs(parts, None, names)(parts.params, parts.batch_stats, images, 5)
    signs = np.sign([np.corrcoef(column, labels)[0, 1] for column in outputs.T])
    labels = labels * signs[names.index("score")]  # random weights: now the score rises with them
    found = lines_of(model, images, labels, 5)
    rising = [name for name, sign in zip(names, signs, strict=True) if sign == signs[names.index("score")]]
    assert sorted(found) == sorted(rising)
    whole = merge_model(parts, parts.params, parts.batch_stats)
    given = outputs_of(whole, jnp.asarray(images.inputs(0, 12)))
    loss = in_label_units(parts, found).total_loss(given, jnp.asarray(labels), mse)
    expected = 0.0
    for name, weight in type(model).loss_weights.items():
        values = np.asarray(given[name])
        left = 1 - np.corrcoef(values, labels)[0, 1] ** 2 if name in rising else np.mean((values - labels) ** 2)
        expected += weight * left
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_copies_of_the_score_share_its_unit_and_the_rest_has_none():
    found = {"score": (2.0, 1.0), "q6": (10.0, 0.0)}
    values = jnp.array([1.0, 3.0])
    for name in ("score", "mirrored", "regions"):
        assert on(found, name, values).tolist() == [3.0, 7.0]
    assert on(found, "q6", values).tolist() == [10.0, 30.0]
    assert on(found, "consistency", values).tolist() == on(found, "region_mos", values).tolist() == [1.0, 3.0]
    assert on({}, "score", values).tolist() == [1.0, 3.0]
    assert {"score", "mirrored"} == set(TReS.loss_weights)
    assert set(PaQ2PiQ.loss_weights) == {"score"}


def test_an_output_of_equal_values_has_no_line():
    assert lines({"score": np.ones(3)}, np.arange(3.0)) == {}


@pytest.mark.slow
def test_a_child_by_the_squared_error_starts_where_its_parent_is(tmp_path):
    """The parent's outputs lie near 50, the child's labels near 0."""
    images = Data("builtin", options={"size": (32, 36), "train": 16, "val": 8, "test": 8})
    plain = Training(epochs=15, batch_size=8, loss="mse", labels="percent", learning_rate=3e-3, select="last")
    still = Training(epochs=1, batch_size=16, loss="mse", labels="standardised", learning_rate=1e-12, flip=False)
    experiment = Experiment(
        "tiny",
        images,
        Model("resnet18", width=4, input_size=(32, 36), metric="koncept512"),
        {"base": Variant(plain), "child": Variant(still, parent="base")},
        Evaluation(images, {}),
        workdir=str(tmp_path),
    )
    train(experiment)
    base = models.load_run(run_folder(experiment, "base", 0))
    split = data.load("builtin", **images.options)["train"]
    raw = np.asarray(base.outputs(jnp.asarray(split.images()))["score"])
    labels = (split.mos - split.mos.mean()) / split.mos.std()
    (row,) = map(json.loads, (run_folder(experiment, "child", 0) / "metrics.jsonl").read_text().splitlines())
    assert row["loss"] < 2  # a constant has 1; the head's dropout and batch norms differ from those of validation
    assert np.mean((raw - labels) ** 2) > 20


def test_distillation_compares_scores_in_the_unit_of_the_labels_too():
    """The student's raw scores run from 0 to 1, the teacher's labels around 50."""
    images = jnp.linspace(0.1, 0.9, 4)[:, None, None, None] * jnp.ones((4, 6, 8, 3))
    student, teacher = (Partial(lambda k, x: k * x.mean((1, 2, 3)), k) for k in (1.0, 100.0))
    plan = Training(loss="mse", distil=Distil(0.5))
    apart = 0.5 * float(jnp.mean((99 * images.mean((1, 2, 3))) ** 2))
    for unit, expected in (({"score": (100.0, 0.0)}, 0.0), ({"score": (100.0, 2.0)}, 2.0), ({}, apart)):
        penalty = make_penalty(plan, teacher=teacher, unit=unit)
        keys = jax.random.split(jax.random.key(0), len(images))
        price = float(penalty(student, {"unlabelled": images}, keys, gather=lambda x: x))
        assert price == pytest.approx(expected, abs=1e-4)
