"""Swapped poolings: what changes, what survives files and configs, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import models
from jaxiqa.config import Training, Variant, check_experiment, describe, load_config
from jaxiqa.evaluation.fingerprint import model_digest
from jaxiqa.models.exporting import export
from jaxiqa.models.pooling import pooling_of, swap_pooling
from jaxiqa.nn.global_pooling import POOLINGS
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import merge_model, raw_score_fn, split_model

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
CONFIG = Path(__file__).parent.parent.parent / "configs" / "smoke.py"
SMALL = {"taps": ("layer1", "layer2")}
METRICS = {
    "linearity": ({"backbone": "resnet18", "width": 8}, 2),
    "koncept512": ({"backbone": "resnet18", "width": 8}, 1),
    "tres": ({"backbone": "resnet18", "width": 8, "protocol": "whole"}, 2),
    "hyperiqa": ({"backbone": "resnet18", "width": 8}, 2),
}
"""Metric -> its options, and the number of maps that it averages whole."""


@pytest.fixture(scope="module")
def smoke():
    return load_config(CONFIG)


def abstract(name, **options):
    return nnx.eval_shape(lambda: models.MODELS[name].metric(**options, rngs=nnx.Rngs(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_every_whole_map_is_pooled_by_the_chosen_function(name):
    """Sorts appear in the program of a metric for the median only, one for each map."""
    options, count = METRICS[name]
    model = abstract(name, **options)
    pixels = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    sorts = {}
    for pooling in POOLINGS:
        swap_pooling(model, pooling)
        graphdef, state = nnx.split(model)
        traced = jax.make_jaxpr(lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state).raw(x))(state, pixels)
        sorts[pooling] = str(traced).count(" sort[")
        assert traced.out_avals[0].shape == (2,)
    assert sorts == {"mean": 0, "median": count, "trimmed": count, "power": 0}


@pytest.mark.slow
def test_linearity_computes_with_the_chosen_pooling():
    model = tiny.metric(**SMALL)
    maps = model.features(X, SMALL["taps"])
    swap_pooling(model, "median")
    pooled = [np.median(np.asarray(maps[tap]).reshape(2, -1, maps[tap].shape[-1]), axis=1) for tap in model.taps]
    levels = [model.dr6(jnp.asarray(pooled[0])), model.dr7(jnp.asarray(pooled[1]))]
    expected = model.regression(jnp.concatenate(levels, axis=1))[:, 0]
    np.testing.assert_allclose(model.raw(X), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.outputs(X)["score"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.features(X, ("f6",))["f6"], levels[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_koncepts_official_part_is_pooled_too():
    model = tiny.filled(abstract("koncept512", width=2))
    last = jax.random.normal(jax.random.key(0), (1, 9, 12, 5))
    assert model.pooling == "official"
    swap_pooling(model, "median")
    expected = np.median(np.asarray(last[:, :8, :8]).reshape(1, -1, 5), axis=1)
    np.testing.assert_allclose(model._pool(last), expected, atol=1e-6)
    assert dict(model.options)["pooling"] == "official"


@pytest.mark.slow
def test_the_choice_is_saved_loaded_folded_and_exported(tmp_path):
    model = tiny.metric(**SMALL)
    model.calibrate(k=2.0, b=1.0, score_range=(-1.0, 9.0))
    plain = model(X)
    swap_pooling(model, "trimmed")
    models.swap_activation(model, "softplus")
    models.harden(model, "before:conv1", "low_pass", share=0.5, rngs=nnx.Rngs(1))
    models.blur_strides(model, 3)
    assert np.abs(model(X) - plain).max() > 1e-3
    models.save(model, tmp_path)
    card = tmp_path / "model.json"
    content = json.loads(card.read_text())
    found = [content[name] for name in ("format", "activations", "blur", "pooling")]
    assert found == [5, {"backbone": "softplus"}, 3, "trimmed"]
    loaded = models.load_run(tmp_path)
    assert pooling_of(loaded) == "trimmed"
    assert nnx.split(loaded)[0] == nnx.split(model)[0]
    np.testing.assert_array_equal(loaded(X), model(X))
    score = models.score_fn(loaded, (40, 56))
    assert pooling_of(score.module()) == "trimmed"
    np.testing.assert_allclose(score(X), model(X), rtol=1e-4)
    exported = export(lambda images: score(images), "2, 40, 56, 3", platforms=("cpu",))
    np.testing.assert_allclose(exported.call(X), model(X), rtol=1e-4)
    assert model_digest(card).endswith(" backbone=softplus blur=3 pooling=trimmed")
    content["format"] = 6
    del content["seal"]
    card.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="format=6 is not allowed; this version reads 1 to 5"):
        models.load_run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["median", "power"])
def test_a_training_step_sees_the_pooling_and_gradients_are_finite(pooling):
    model = tiny.metric(**SMALL)
    swap_pooling(model, pooling)
    parts = split_model(model)
    assert pooling_of(merge_model(parts, parts.params, parts.batch_stats, training=True)) == pooling
    flat = jnp.full((2, 24, 24, 3), 0.5)

    def loss(params, images):
        return raw_score_fn(parts, params, parts.batch_stats, training=True)(images).sum()

    for images in (X, flat):
        gradients = jax.grad(loss, argnums=(0, 1))(parts.params, images)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_swapping_back_gives_the_published_metric():
    model, other = tiny.abstract(**SMALL), tiny.abstract(**SMALL)
    swap_pooling(model, "power")
    assert nnx.split(model)[0] != nnx.split(other)[0]
    swap_pooling(model, "mean")
    assert pooling_of(model) is None


@pytest.mark.slow
def test_bad_choices_are_refused():
    model = tiny.abstract(**SMALL)
    with pytest.raises(ValueError, match=r"pooling='medium' is not allowed; choose from 'mean', 'median', 'trimmed'"):
        swap_pooling(model, "medium")
    other = abstract("spaq_bl", width=8)
    with pytest.raises(ValueError, match=r"the head of \w+ has no average to swap; those of .*linearity.* have"):
        swap_pooling(other, "median")


@pytest.mark.slow
def test_a_variant_names_its_pooling(smoke):
    chosen = Variant(Training(epochs=2), parent="baseline", pooling="median")
    changed = replace(smoke, variants={**smoke.variants, "robust": chosen})
    check_training(changed)
    described = describe(changed, "robust", 0)["variants"][1]
    assert described["pooling"] == "median"
    assert "blur" not in described
    odd = replace(chosen, parent=None)
    object.__setattr__(odd, "pooling", "medien")  # the tests check types when an object is made
    with pytest.raises(ValueError, match=r"variants\.odd\.pooling='medien'; did you mean 'median'"):
        check_experiment(replace(smoke, variants={"odd": odd}))
    model = replace(smoke.model, metric="spaq_bl", backbone=None, width=8, taps=None, input_size=(64, 64))
    odd = Variant(Training(epochs=2, batch_size=8), pooling="median")
    with pytest.raises(ValueError, match=r"variants\.odd\.pooling='median': the head of \w+ has no average"):
        check_training(replace(smoke, model=model, variants={"odd": odd}))
