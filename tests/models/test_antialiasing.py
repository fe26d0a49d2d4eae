"""Blurs before strides: one per strided layer, more alike features of shifted images, constant images unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import models
from jaxiqa.models.antialiasing import Blurred, blurred, strided

IMAGES = jax.random.uniform(jax.random.key(0), (2, 33, 46, 3))
STRIDES = {"resnet18": 8, "efficientnet_lite0": 5, "vgg16": 5, "alexnet": 4, "squeezenet1_1": 4}
"""Strided layers of each backbone: convolutions, shortcuts and poolings."""


def texts(model):
    graphdef, state = nnx.split(model)
    return str(jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))(state, IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_every_strided_layer_gets_one_blur(backbone, taps):
    model = tiny.abstract(backbone)
    assert blurred(model) is None
    models.blur_strides(model, 8 - taps)
    models.blur_strides(model, taps)  # replaces
    assert blurred(model) == taps
    assert len(strided(model)) == STRIDES[backbone]
    assert texts(model).count(f"name=binomial_blur_{taps}") == STRIDES[backbone]
    assert f"binomial_blur_{8 - taps}" not in texts(model)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", STRIDES)
def test_all_strides_of_a_backbone_are_found(backbone):
    stages = nnx.eval_shape(lambda: models.BACKBONES[backbone].build(width=8, rngs=nnx.Rngs(0)))
    holder = nnx.Dict(backbone=stages)
    found = strided(holder)
    assert len(found) == STRIDES[backbone]
    pools = [module for _, module in nnx.iter_modules(stages) if type(module).__name__ == "MaxPool"]
    assert sum(not isinstance(module, nnx.Conv) for module in found) == len(pools)


@pytest.mark.slow
def test_features_of_a_shifted_image_are_more_alike():
    """One pixel to the right; random textures contain all frequencies."""
    model = tiny.metric("efficientnet_lite0")
    wide = jax.random.uniform(jax.random.key(3), (2, 64, 97, 3))
    images, shifted = wide[:, :, :96], wide[:, :, 1:]

    def distance():
        maps = [model.features(x, ("block4",))["block4"].mean((1, 2)) for x in (images, shifted)]
        return float(jnp.linalg.norm(maps[0] - maps[1]) / jnp.linalg.norm(maps[0] - maps[0].mean(0)))

    before = distance()
    models.blur_strides(model, 3)
    assert distance() < 0.8 * before


def test_a_constant_image_keeps_its_score_inside_of_a_stage():
    model = tiny.metric("resnet18")
    flat = jnp.full((1, 64, 64, 3), 0.3)
    stem = lambda: model.features(flat, ("conv1",))["conv1"][0, 8:-8, 8:-8]  # noqa: E731
    before = stem()
    models.blur_strides(model, 5)
    np.testing.assert_allclose(stem(), before, atol=1e-5)


@pytest.mark.slow
def test_folding_and_shared_programs_keep_the_blurs():
    model = tiny.metric("efficientnet_lite0")
    models.blur_strides(model, 3)
    score = models.score_fn(model)
    np.testing.assert_allclose(score(IMAGES), model(IMAGES), rtol=2e-4, atol=1e-4)
    other = tiny.metric("efficientnet_lite0", seed=1)
    models.blur_strides(other, 3)
    assert jax.tree.structure(models.score_fn(other)) == jax.tree.structure(score)
    models.blur_strides(other, 5)
    assert jax.tree.structure(models.score_fn(other)) != jax.tree.structure(score)
    assert Blurred(jnp.sin, 3) == Blurred(jnp.sin, 3) != Blurred(jnp.sin, 5)


@pytest.mark.slow
def test_a_blurred_metric_is_exported_for_any_size():
    model = tiny.metric("vgg16", taps=("relu2_1", "relu3_1"))
    models.blur_strides(model, 3)
    models.swap_pooling(model, "median")
    exported = models.export(models.score_fn(model), "b, h, w, 3", platforms=("cpu",))
    x = jax.random.uniform(jax.random.key(2), (1, 225, 230, 3))
    np.testing.assert_allclose(exported.call(x), model(x), rtol=1e-4)


@pytest.mark.slow
def test_compacting_a_blurred_metric_keeps_its_scores():
    model = tiny.metric("mobilenet_v2", taps=("block1", "block3"))
    for name in ("stem", "block2"):
        stage = model.backbone.stage[name]
        kernel = (stage.conv if name == "stem" else stage.expand).kernel
        kernel[...] = kernel[...].at[..., ::2].set(0)
    models.blur_strides(model, 3)
    small = models.compact(model)
    assert blurred(small) == 3
    channels = [net.backbone.stage["block2"].depthwise.kernel.shape[-1] for net in (small, model)]
    assert channels[0] < channels[1]
    np.testing.assert_allclose(small(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-4)


def test_bad_calls_change_nothing():
    model = tiny.abstract()
    with pytest.raises(ValueError, match="taps=4"):
        models.blur_strides(model, 4)
    assert blurred(model) is None
    with pytest.raises(ValueError, match="no convolution or pooling with a stride"):
        models.blur_strides(nnx.Dict(backbone=nnx.Dict(a=nnx.Linear(2, 2, rngs=nnx.Rngs(0)))), 3)
