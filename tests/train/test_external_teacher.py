"""Distillation from a trained metric of another kind, on distorted copies of the training images."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxiqa import models
from jaxiqa.config import (
    Adversarial,
    Block,
    Data,
    Distil,
    Evaluation,
    Experiment,
    Jacobian,
    Model,
    SoftLabels,
    Spectral,
    Training,
    Variant,
    describe,
    run_folder,
)
from jaxiqa.ops.ssim import ssim
from jaxiqa.train.additions import additions
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.sources import example_source, unlabelled_source
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import raw_score_fn, split_model

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
def test_the_target_may_be_the_score_before_the_distortion_lowered_by_a_distance(teacher):
    chosen = with_recipes(experiment(teacher, target="ssim"))
    splits = load_data(chosen, ["base"])
    shown = unlabelled_source(chosen, "base", splits)
    pairs = jnp.asarray(shown.inputs(0, 8))
    images, before = pairs[..., :3], pairs[..., 3:]
    moved = np.abs(np.asarray(images - before)).max((1, 2, 3)) > 0
    assert 0 < moved.sum() < len(moved)
    student, taught = models.build(metric="lipschitz_iqa", **STUDENT.options), models.load_run(teacher)
    train = example_source(splits["train"], None, chosen.variants["base"].training)
    penalty = additions(chosen, "base", 0, student, train, {})["penalty"]
    low, high = train.mos.min(), train.mos.max()
    far = 1 - np.asarray(ssim(before, images))
    assert (far[moved] > 1e-4).all()
    np.testing.assert_allclose(far[~moved], 0, atol=1e-5)
    wanted = np.clip((np.asarray(taught(before)) - low) / (high - low) - far, 0, 1)
    expected = 4.0 * np.mean((np.asarray(student.raw(images)) - wanted) ** 2)
    keys = jax.random.split(jax.random.key(0), len(images))
    found = penalty(student.raw, {"image": images, "unlabelled": pairs}, keys, gather=lambda x: x)
    assert float(found) == pytest.approx(expected, rel=2e-3)


def test_such_a_target_needs_distorted_images(teacher):
    with pytest.raises(ValueError, match=r"variants.base.training.distil.target='ssim'.*give distorted"):
        check_training(experiment(teacher, target="ssim", distorted=0))


@pytest.mark.slow
def test_the_images_of_a_teacher_may_be_attacked(teacher):
    """The loss and its gradient are those on attacked images that are constants, with targets of the clean ones."""
    attack = Adversarial(8 / 255, "fgsm", {}, target="score", **UNCHANGED)
    chosen = experiment(teacher, attacked=True)
    plan = replace(chosen.variants["base"].training, adversarial=attack)
    chosen = with_recipes(replace(chosen, variants={"base": Variant(plan)}))
    check_training(chosen)
    splits = load_data(chosen, ["base"])
    student, taught = models.build(metric="lipschitz_iqa", **STUDENT.options), models.load_run(teacher)
    train = example_source(splits["train"], None, plan)
    penalty = additions(chosen, "base", 0, student, train, {})["penalty"]
    parts = split_model(student)
    images = jnp.asarray(splits["val"].images())
    keys, low, high = jax.random.split(jax.random.key(0), len(images)), train.mos.min(), train.mos.max()

    def found(params):
        score_fn = raw_score_fn(parts, params, parts.batch_stats)
        return penalty(score_fn, {"image": images, "unlabelled": images}, keys, gather=lambda x: x)

    slopes = jax.vmap(jax.grad(lambda image: student.raw(image[None])[0]))(images)
    moved = jnp.clip(images + 8 / 255 * jnp.sign(slopes), 0, 1)
    wanted = jnp.clip((taught(images) - low) / (high - low), 0, 1)

    def expected(params):
        return 4.0 * jnp.mean((raw_score_fn(parts, params, parts.batch_stats)(moved) - wanted) ** 2)

    (value, gradient), (same, like) = (jax.value_and_grad(f)(parts.params) for f in (found, expected))
    assert float(value) == pytest.approx(float(same), rel=1e-3)
    chex.assert_trees_all_close(gradient, like, rtol=1e-2, atol=1e-4 * max(map(jnp.max, jax.tree.leaves(like))))


def test_attacked_images_of_a_teacher_need_an_attack(teacher):
    with pytest.raises(ValueError, match=r"variants.base.training.distil.attacked=True.*give adversarial"):
        check_training(experiment(teacher, attacked=True))


def softened(weights, share=0.75, **changes):
    changes = {"distil": None, "soft_labels": SoftLabels(share, weights=str(weights))} | changes
    training = replace(experiment(weights).variants["base"].training, **changes)
    return replace(experiment(weights), variants={"base": Variant(training)})


@pytest.mark.slow
def test_soft_labels_are_mixed_from_labels_and_scores_of_clean_images(teacher):
    attack = Adversarial(8 / 255, "fgsm", {}, **UNCHANGED)
    chosen = with_recipes(softened(teacher, adversarial=attack))
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


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_soft_labels_have_a_share(teacher, share):
    with pytest.raises(ValueError, match=r"variants.base.training.soft_labels.share=.*\(0, 1\]"):
        check_training(softened(teacher, share))


def test_the_teacher_of_soft_labels_must_be_there_and_that_of_distil(teacher, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"variants.base.training.soft_labels.weights=.*no trained model"):
        check_training(softened(tmp_path / "none"))
    check_training(softened(teacher, distil=Distil(weights=str(teacher))))
    with pytest.raises(ValueError, match=r"variants.base.training: distil and soft_labels have different teachers"):
        check_training(softened(teacher, distil=Distil(weights=str(tmp_path))))


def test_the_parent_is_the_same_teacher_with_and_without_its_name(teacher):
    plain = experiment(teacher)
    for one, other in ((None, "base"), ("base", None), ("base", "base")):
        both = replace(plain.variants["base"].training, distil=Distil(teacher=one), soft_labels=SoftLabels(0.5, other))
        check_training(replace(plain, variants={**plain.variants, "child": Variant(both, parent="base")}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "level0"}, r"training\.freeze='level0': a LipschitzIQA has no backbone"),
        ({"jacobian": Jacobian("level0", 0.1)}, r"training\.jacobian\.stage='level0': a LipschitzIQA has no backbone"),
        ({"spectral": Spectral(0.1)}, r"training: spectral: a LipschitzIQA has no backbone"),
        ({"block": Block("after:level0", options={"mid": 2})}, r"block\.where: a LipschitzIQA has no backbone"),
        ({"filter": 4 / 255}, r"filter=.*LipschitzIQA; expected a metric with a backbone"),
    ],
)
def test_what_needs_stages_is_refused_by_its_field(teacher, changes, message):
    chosen, fields = experiment(teacher), {"block", "filter"} & set(changes)
    training = replace(chosen.variants["base"].training, **{} if fields else changes)
    variant = Variant(training, **changes if fields else {})
    with pytest.raises(ValueError, match=r"variants\.base\." + message):
        check_training(replace(chosen, variants={"base": variant}))


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
