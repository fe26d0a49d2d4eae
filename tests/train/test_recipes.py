"""Recipes: what a config leaves open is the published training, and what it says is kept."""

import sys
from dataclasses import fields, replace

import pytest

from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant, check_experiment
from jaxiqa.models import MODELS
from jaxiqa.models.metric import Metric
from jaxiqa.models.recipe import Recipe
from jaxiqa.train.recipes import completed, with_recipes
from jaxiqa.train.startup import check_devices, check_training


def experiment(training, metric="linearity", size=(64, 72), **model):
    data = Data("builtin", options={"size": size, "train": 8, "val": 4, "test": 4})
    return Experiment("any", data, Model(metric=metric, **model), {"base": Variant(training)}, Evaluation(data, {}))


def test_a_recipe_has_the_fields_of_a_training():
    names = {field.name for field in fields(Training)}
    assert {field.name for field in fields(Recipe)} < names


@pytest.mark.parametrize("name", MODELS)
def test_the_published_recipe_is_the_default(name):
    recipe = MODELS[name].metric.recipe
    found = with_recipes(experiment(Training(), name)).variants["base"].training
    assert {field.name: getattr(found, field.name) for field in fields(Recipe)} == {
        field.name: getattr(recipe, field.name) for field in fields(Recipe)
    }
    check_experiment(with_recipes(experiment(Training(), name)))


@pytest.mark.parametrize("name", MODELS)
def test_a_metric_has_the_recipe_of_its_file(name):
    metric = MODELS[name].metric
    written = getattr(sys.modules[metric.__module__], "RECIPE", None)
    assert metric.recipe is (written or Metric.recipe)


@pytest.mark.parametrize("name", MODELS)
def test_every_part_is_an_option(name):
    own = Training(
        epochs=2, batch_size=4, loss="plcc", labels="standardised", select="plcc", learning_rate=1e-5, flip=False,
        backbone_factor=0.0, schedule="cosine", decay_every=3, decay_factor=0.5, weight_decay=0.0, crops=2,
        crop=(64, 64), patches=3, resize=(70, 80),
    )  # fmt: skip
    assert completed(own, MODELS[name].metric.recipe) == own


@pytest.mark.parametrize("name", MODELS)
def test_completing_twice_changes_nothing(name):
    once = with_recipes(experiment(Training(schedule="cosine"), name))
    assert with_recipes(once) == once


def test_without_crops_nothing_of_them_is_left():
    found = completed(Training(crops=0), MODELS["tres"].metric.recipe)
    assert (found.crop, found.resize, found.patches) == (None, None, 1)


def test_another_schedule_does_not_take_the_periods_of_the_recipe():
    recipe = MODELS["maniqa"].metric.recipe
    assert completed(Training(), recipe).decay_every == 50
    assert completed(Training(schedule="steps"), recipe).decay_every is None
    assert completed(Training(schedule="steps", decay_every=4), recipe).decay_every == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": 2}, r"variants\.base\.training\.crops=2 needs crop=\(height, width\)"),
        ({"crops": 2, "crop": (65, 30)}, r"variants\.base\.training: crop=65x30 is larger than an image \(64x72\)"),
        ({"crops": 1, "crop": (8, 8), "resize": (7, 9)}, r"crop=8x8 is larger than an image \(7x9\)"),
        ({"crops": -1}, r"training\.crops=-1; expected at least 0"),
        ({"crop": (0, 8)}, r"training\.crop=\(0, 8\); expected \(height, width\), both at least 1"),
        (
            {"learning_rate": ((1, 0.1),)},
            r"learning_rate=\(\(1, 0\.1\),\); expected pairs \(epoch, rate\) from epoch 0",
        ),
        ({"learning_rate": ((0, 0.1), (5, 0.2), (3, 0.1))}, r"expected pairs \(epoch, rate\) from epoch 0 on"),
        ({"learning_rate": ((0, 0.0),)}, r"expected a positive, finite number"),
        ({"backbone_factor": -0.1}, r"backbone_factor=-0\.1; expected at least 0"),
        ({"average": 1.0}, r"average=1\.0; expected a decay in \[0, 1\), such as 0\.999"),
        ({"warmup": -1.0}, r"warmup=-1\.0; expected at least 0"),
        ({"accumulate": 3}, r"accumulate=3 does not divide batch_size=4 evenly"),
        ({"accumulate": 0}, r"accumulate=0; expected at least 1"),
        ({"batch_size": 1}, r"batch_size=1; expected at least 2, since loss='norm_in_norm' compares"),
    ],
)
def test_faults_name_the_field(changes, message):
    training = replace(Training(epochs=1, batch_size=4), **changes)
    with pytest.raises(ValueError, match=message):
        check_training(experiment(training, backbone="resnet18", width=4))


@pytest.mark.slow
def test_crops_that_a_network_does_not_take_are_named():
    with pytest.raises(ValueError, match=r"variants\.base\.training\.crop=\(64, 64\): .*224"):
        check_training(
            experiment(Training(crop=(64, 64), batch_size=2), "tres", backbone="resnet18", width=4, size=(230, 240))
        )


def test_parts_must_fit_the_devices():
    training = Training(epochs=1, batch_size=6, accumulate=2)
    with pytest.raises(ValueError, match=r"batch_size=6 cannot be divided among 2 devices and 2 parts"):
        check_devices(experiment(training, backbone="resnet18"))
