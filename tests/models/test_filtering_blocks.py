"""A band limit and a shrinkage as blocks: inserted, saved and loaded, folded, bounded, and named in a config."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import lipschitz, models
from jaxiqa.config import Block
from jaxiqa.layers import low_pass, wavelet_shrink
from jaxiqa.train.startup import check_training

IMAGES = jax.random.uniform(jax.random.key(0), (2, 33, 46, 3))


def hardened():
    model = tiny.metric("efficientnet_lite0")
    models.harden(model, "before:stem", "low_pass", share=0.5, rngs=nnx.Rngs(0))
    models.harden(model, "before:stem", "wavelet_shrinkage", threshold=[0.03, 0.02, 0.04], rngs=nnx.Rngs(0))
    models.harden(model, "after:block2", "shrinkage", threshold=0.1, rngs=nnx.Rngs(0))
    model.calibrate(k=10.0, b=50.0, score_range=(0.0, 100.0))
    return model


@pytest.mark.slow
def test_a_band_limit_before_the_stem_filters_the_image():
    model = tiny.metric("efficientnet_lite0")
    expected = model(jnp.clip(low_pass(IMAGES, 0.5), 0, 1))
    models.harden(model, "before:stem", "low_pass", share=0.5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(model(IMAGES), expected, atol=2e-3)  # the clip hardly changes anything


class Shown(Exception):
    """What the first stage is shown."""


class Shows(nnx.Module):
    def __call__(self, x):
        raise Shown(x)


METRICS = ["linearity", "maniqa", "metaiqa", "paq2piq", "koncept512"]


def small(metric):
    if metric == "linearity":
        return tiny.metric("resnet18")
    return models.build(metric=metric, width=24 if metric == "maniqa" else 8)


@pytest.mark.parametrize("metric", METRICS)
def test_pixels_are_divided_by_the_deviations_that_a_metric_names(metric):
    model = small(metric)
    models.filter_images(model, 9 / 255)
    model.backbone.stage["wavelet_shrinkage"] = Shows()
    shown = []
    for grey in (0.2, 0.5):
        with pytest.raises(Shown) as caught:
            model.raw(jnp.full((1, *(model.input_size or (96, 96)), 3), grey))
        shown.append(caught.value.args[0][0, 0, 0])
    np.testing.assert_allclose((shown[1] - shown[0]) * jnp.asarray(model.std), 0.3, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_the_first_stage_sees_filtered_pixels(metric):
    """Each normalisation has deviations of its own, by channel."""
    model = small(metric)
    first, pixels = model.backbone.order[0], jax.random.uniform(jax.random.key(0), (1, 24, 38, 3))
    models.filter_images(model, 9 / 255)
    assert model.backbone.order[:2] == ("wavelet_shrinkage", first)
    shown = (pixels - 0.25) / jnp.asarray(model.std)
    expected = (wavelet_shrink(pixels, 9 / 255) - 0.25) / jnp.asarray(model.std)
    found = model.backbone.stage["wavelet_shrinkage"](shown)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert float(jnp.max(jnp.abs(found - shown))) > 0.01


def test_images_are_filtered_once():
    model = tiny.abstract()
    models.filter_images(model, 4 / 255)
    with pytest.raises(ValueError, match="has a wavelet_shrinkage already"):
        models.filter_images(model, 2 / 255)
    for threshold in (0.0, 4.0, float("nan")):
        with pytest.raises(ValueError, match="threshold="):
            models.filter_images(tiny.abstract(), threshold)


@pytest.mark.slow
def test_it_is_saved_and_loaded_exactly_and_scored_without_change(tmp_path):
    model = hardened()
    models.save(model, tmp_path)
    again = models.load_run(tmp_path)
    assert [(block.kind, block.where) for block in again.insertions] == [
        ("low_pass", "before:stem"),
        ("wavelet_shrinkage", "before:stem"),
        ("shrinkage", "after:block2"),
    ]
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))
    np.testing.assert_allclose(models.score_fn(again, (33, 46))(IMAGES), model(IMAGES), rtol=2e-4)


@pytest.mark.slow
def test_the_report_of_a_metric_names_them():
    rows = lipschitz.report(hardened(), (33, 46, 3)).rows
    found = [row for row in rows if "shrinkage" in row.name or "low_pass" in row.name]
    assert found
    assert all(row.upper <= 1 + 1e-4 for row in found)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("low_pass", {}, "'share' is missing"),
        ("low_pass", {"share": 2.0}, "share=2.0"),
        ("low_pass", {"mid": 4}, "there is no 'mid'; choose from 'share'"),
        ("shrinkage", {}, "'threshold' is missing"),
        ("shrinkage", {"threshold": 0.0}, "threshold=0.0"),
        ("wavelet_shrinkage", {"threshold": 0.1, "levels": 0}, "levels=0"),
        ("wavelet_shrinkage", {"threshold": (0.1, 0.0) * 4}, "threshold=0.0"),
        ("wavelet_shrinkage", {"threshold": (0.1, 0.2)}, "expected one threshold, or .*, one per channel"),
        ("wavelet_shrinkage", {"threshold": []}, "threshold"),
        ("wavelet_shrinkage", {"threshold": None}, "threshold"),
        ("wavelet_shrinkage", {"threshold": "4/255"}, "threshold"),
        ("shrinkage", {"threshold": None}, "threshold"),
        ("low_pass", {"share": None}, "share"),
    ],
)
def test_bad_options_are_refused_and_nothing_changes(kind, options, message):
    model = tiny.abstract()
    with pytest.raises(ValueError, match=message):
        models.harden(model, "after:layer1", kind, rngs=nnx.Rngs(0), **options)
    assert model.insertions == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("before:conv1", "low_pass"), r"block\.options: low_pass needs 'share', such as \{'share': 0\.5\}"),
        (Block("after:layer1", "shrinkage", {"treshold": 1.0}), r"no option 'treshold'; did you mean 'threshold'"),
    ],
)
def test_faults_in_a_config_are_named(block, message):
    from configs.smoke import get_config

    smoke = get_config()
    check_training(with_block(smoke, Block("before:conv1", "low_pass", {"share": 0.5})))
    with pytest.raises(ValueError, match=message):
        check_training(with_block(smoke, block))


def with_block(experiment, block):
    variant = replace(experiment.variants["hardened"], block=block, prune=None)
    return replace(experiment, variants={**experiment.variants, "hardened": variant})
