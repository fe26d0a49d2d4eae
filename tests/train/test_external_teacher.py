"""Distillation from a trained metric of another kind, on distorted copies of the training images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxiqa import models
from jaxiqa.config import (
    Adversarial,
    Data,
    Distil,
    Evaluation,
    Experiment,
    Model,
    Training,
    Variant,
    describe,
    run_folder,
)
from jaxiqa.train.additions import additions
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.sources import example_source, unlabelled_source
from jaxiqa.train.startup import check_training

UNCHANGED = {"label": "unchanged", "clean": False}
STUDENT = Model(metric="lipschitz_iqa", options={"channels": (8, 12), "depth": (1, 1), "slope": 0.05})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A metric that resizes images, on the scale of the labels."""
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.metric(input_size=(40, 56))
    model.calibrate(k=20.0, b=50.0, score_range=(0.0, 100.0))
    models.save(model, folder)
    return folder


def experiment(weights, workdir="", **changes):
    data = Data("builtin", options={"size": (32, 40), "train": 16, "val": 8, "test": 4})
    distil = replace(Distil(4.0, weights=weights and str(weights), distorted=3), **changes)
    training = Training(epochs=2, batch_size=8, loss="mse", labels="unit", learning_rate=0.005, distil=distil)
    return Experiment("x", data, STUDENT, {"base": Variant(training)}, Evaluation(data, {}), workdir=str(workdir))


@pytest.mark.slow
def test_distorted_copies_are_shown_at_the_size_of_the_metric(teacher):
    chosen = experiment(teacher)
    found = unlabelled_source(chosen, "base", load_data(chosen, ["base"]))
    assert len(found) == 48
    sized = replace(chosen, model=replace(STUDENT, input_size=(16, 24)))
    splits = load_data(sized, ["base"])
    view = unlabelled_source(sized, "base", splits)
    assert len(view) == 48


@pytest.mark.slow
def test_the_penalty_is_the_distance_from_the_teacher_in_the_unit_of_the_labels(teacher):
    chosen = with_recipes(experiment(teacher))
    splits = load_data(chosen, ["base"])
    student, taught = models.build(metric="lipschitz_iqa", **STUDENT.options), models.load_run(teacher)
    train = example_source(splits["train"], None, chosen.variants["base"].training)
    penalty = additions(chosen, "base", 0, student, train, {})["penalty"]
    images = jnp.asarray(splits["val"].images())
    low, high = train.mos.min(), train.mos.max()
    wanted = (np.asarray(taught(images)) - low) / (high - low)
    expected = 4.0 * np.mean((np.asarray(student.raw(images)) - wanted) ** 2)
    batch = {"image": images, "unlabelled": images}
    found = penalty(student.raw, batch, jax.random.split(jax.random.key(0), len(images)), gather=lambda x: x)
    assert float(found) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_labelled_teacher_mixes_its_scores_of_clean_images_into_the_labels(teacher):
    chosen = experiment(teacher, weight=0.75, distorted=0, labelled=True)
    attacked = replace(chosen.variants["base"].training, adversarial=Adversarial(8 / 255, "fgsm", {}, **UNCHANGED))
    chosen = with_recipes(replace(chosen, variants={"base": Variant(attacked)}))
    check_training(chosen)
    splits = load_data(chosen, ["base"])
    assert unlabelled_source(chosen, "base", splits) is None
    student, taught = models.build(metric="lipschitz_iqa", **STUDENT.options), models.load_run(teacher)
    train = example_source(splits["train"], None, chosen.variants["base"].training)
    added = additions(chosen, "base", 0, student, train, {})
    assert added["penalty"] is None
    images, mos = jnp.asarray(splits["val"].images()), jnp.asarray(train.labels(splits["val"].mos))
    keys = jax.random.split(jax.random.key(0), len(images))
    moved, labels = added["augment"](student.raw, images, mos, keys, gather=lambda x: x)
    assert float(jnp.abs(moved - images).max()) == pytest.approx(8 / 255, abs=1e-6)
    wanted = 0.25 * mos + 0.75 * train.labels(np.asarray(taught(images)))
    np.testing.assert_allclose(labels, np.clip(wanted, 0, 1), atol=1e-5)


@pytest.mark.parametrize("change", [{"weight": 1.5, "distorted": 0}, {"weight": 0.5, "distorted": 2}])
def test_a_labelled_teacher_has_a_share_and_no_other_images(teacher, change):
    with pytest.raises(ValueError, match=r"variants.base.training.distil.*labelled=True"):
        check_training(experiment(teacher, labelled=True, **change))


@pytest.mark.slow
def test_a_student_is_trained_and_loaded(teacher, tmp_path):
    chosen = experiment(teacher, tmp_path)
    check_training(chosen)
    train_variant(chosen, "base", 0, load_data(chosen, ["base"]), {}, {})
    assert models.load_run(run_folder(chosen, "base", 0)).constant((32, 40)) > 0


def test_unused_fields_are_left_out_of_the_description_so_older_runs_continue(teacher):
    found = describe(experiment(teacher), "base", 0)["variants"][0]["training"]["distil"]
    assert (found["distorted"], found["weights"]) == (3, str(teacher))
    taught = experiment(teacher)
    plain = replace(taught.variants["base"].training, distil=Distil(2.0))
    older = replace(taught, variants={**taught.variants, "child": Variant(plain, parent="base")})
    assert describe(older, "child", 0)["variants"][1]["training"]["distil"].keys() == {
        "weight",
        "teacher",
        "data",
        "split",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "base"}, "teacher and weights are both given"),
        ({"distorted": -1}, r"distil\.distorted=-1"),
        ({"weights": "nowhere"}, r"distil\.weights='nowhere'.*holds no trained model"),
        ({"weights": None}, "no parent; name an earlier variant, or give weights"),
    ],
)
def test_wrong_teachers_are_refused_at_the_start(teacher, changes, message):
    chosen = experiment(**{"weights": teacher} | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_training(chosen)
