"""A metric is a head over a backbone: any that fits, with random, ImageNet or trained weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from quick import every, only

from jaxiqa import models
from jaxiqa.models import BACKBONES, MODELS
from jaxiqa.nn.backbones import BACKBONES_WITH_LEVELS

HEADS = {"linearity": {}, "koncept512": {}, "tres": {}, "norm_controlled": {}, "hyperiqa": {"crops": 2}}


def abstract(metric, **options):
    return nnx.eval_shape(lambda: MODELS[metric].metric(rngs=nnx.Rngs(0), **options))


def scores_of(model, size=(384, 330), count=2):
    images = jax.ShapeDtypeStruct((count, *size, 3), "float32")
    return nnx.eval_shape(lambda model, images: model(images), model, images)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", only(("efficientnet_lite0",), BACKBONES))
@pytest.mark.parametrize("metric", HEADS)
def test_a_head_fits_every_backbone_with_its_stages(metric, backbone):
    if metric in ("tres", "hyperiqa") and backbone not in BACKBONES_WITH_LEVELS:
        with pytest.raises(ValueError, match=f"backbone='{backbone}' is not allowed; choose from 'efficientnet_lite0'"):
            abstract(metric, backbone=backbone)
        return
    model = abstract(metric, backbone=backbone, **HEADS[metric])
    assert scores_of(model).shape == (2,)
    assert model.architecture == backbone
    own = metric == "koncept512" and backbone == "inception_resnet_v2"
    mean = [0.5] * 3 if own else BACKBONES[backbone].mean
    np.testing.assert_array_equal(model.mean, mean)
    again = abstract(metric, **dict(model.options))
    assert nnx.split(again)[0] == nnx.split(model)[0]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", every(3, BACKBONES_WITH_LEVELS))
def test_levels_are_the_last_stages_of_four_strides(backbone):
    stages = nnx.eval_shape(lambda: BACKBONES[backbone].build(width=BACKBONES[backbone].width, rngs=nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    _, maps = nnx.eval_shape(lambda net, x: net.run(x, taps=net.order), stages, x)
    levels = BACKBONES[backbone].levels
    maps |= {level: maps[stages.order[stages.span(level)[1]]] for level in levels}
    assert [maps[level].shape[1:3] for level in levels] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    for level in levels:
        after = stages.order[stages.span(level)[1] + 1 :]
        assert not after or maps[after[0]].shape[1] < maps[level].shape[1] or level == levels[-2]


@pytest.mark.slow
@pytest.mark.parametrize("metric", only(("linearity", "hyperiqa"), MODELS))
def test_without_a_backbone_a_metric_has_its_published_size(metric):
    published = nnx.eval_shape(lambda: MODELS[metric].build(rngs=nnx.Rngs(0)))
    built = nnx.eval_shape(lambda: models.build(metric=metric))
    assert nnx.split(built)[0] == nnx.split(published)[0]


@pytest.mark.parametrize("metric", ["maniqa", "fpr", "metaiqa", "paq2piq", "spaq_bl"])
def test_a_metric_with_its_own_network_takes_no_backbone(metric):
    with pytest.raises(ValueError, match=f"backbone='resnet18' is not allowed: {metric} has its own network"):
        models.build("resnet18", metric=metric)


def test_errors_name_what_is_allowed(tmp_path):
    with pytest.raises(ValueError, match="metric='musiq' is not allowed; choose from 'brisque', 'fpr'"):
        models.build(metric="musiq")
    with pytest.raises(
        ValueError, match="option of koncept512='taps' is not allowed; choose from 'backbone', 'pooling'"
    ):
        models.build("resnet18", metric="koncept512", taps=("layer1", "layer2"))
    with pytest.raises(ValueError, match="weights and backbone_weights are both given"):
        models.build("resnet18", weights="a", backbone_weights="b")
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no ImageNet weights fit fpr"):
        models.build(metric="fpr", weights=tmp_path / "x.safetensors", width=8)
    with pytest.raises(FileNotFoundError, match="gone"):
        models.build("resnet18", weights=tmp_path / "gone.pth")


@pytest.mark.slow
def test_the_file_decides_whether_weights_are_of_the_metric_or_of_its_backbone(tmp_path):
    model = models.build("resnet18", metric="koncept512", width=8, seed=3)
    model.calibrate(k=2.0, b=1.0, score_range=(0.0, 9.0))
    models.save(model, tmp_path / "run")
    loaded = models.build("resnet18", metric="koncept512", width=8, weights=tmp_path / "run")
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 40, 50, 3)), jnp.float32)
    np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(ValueError, match=r"has \{'width': 8\}, not \{'width': 16\}"):
        models.build("resnet18", metric="koncept512", width=16, weights=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a trained koncept512, not a linearity"):
        models.build("resnet18", weights=tmp_path / "run")


def flat(model):
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["koncept512", "linearity"])
def test_imagenet_weights_fill_the_backbone_and_leave_the_head_random(metric, shared):
    weights = shared / "data" / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} does not exist")
    given = models.build("mobilenet_v2", metric=metric, weights=weights)
    named = models.build("mobilenet_v2", metric=metric, backbone_weights=weights)
    other = models.build("mobilenet_v2", metric=metric, seed=0)
    ours, theirs, random = flat(given), flat(named), flat(other)
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf[...], theirs[name][...])
        if not name.startswith("backbone"):
            np.testing.assert_array_equal(leaf[...], random[name][...])
    assert any(np.any(ours[name][...] != random[name][...]) for name in ours if name.startswith("backbone"))
