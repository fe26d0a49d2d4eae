"""Metrics with a norm-controlled tail: built, taken from a trained metric, restarted, saved, and their bound."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.lipschitz import report
from jaxiqa.models import NormControlled, control_tail, harden, swap_activation
from jaxiqa.models.registry import MODELS
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.pretrained import key_map

X = jax.random.uniform(jax.random.key(0), (2, 43, 56, 3))


def parent(**options):
    """A hardened Linearity metric with smooth activations."""
    model = tiny.metric(**options)
    harden(model, "after:layer1", "bottleneck", name="early", mid=3, rngs=nnx.Rngs(1))
    harden(model, "after:layer2", "bottleneck", name="late", mid=3, rngs=nnx.Rngs(2))
    harden(model, "before:layer4", "bottleneck", name="last", mid=3, rngs=nnx.Rngs(3))
    swap_activation(model, "silu")
    return model


def controlled(model, after, **options):
    return control_tail(model, after=after, rngs=nnx.Rngs(4), **{"channels": 4, "depth": 2} | options)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["layer2", "late", "layer3.0", "last"])
def test_the_trunk_of_a_trained_metric_is_kept(after):
    """Oracle: the map of the whole metric that a head would read there."""
    model = parent()
    found = controlled(model, after)
    expected = model.features(X, (after,))[after]
    np.testing.assert_array_equal(found.features(X, (found.backbone.order[-1],))[found.backbone.order[-1]], expected)
    assert [block.name for block in found.insertions] == [
        block.name for block in model.insertions if block.name in found.backbone.order
    ]
    assert ("late" in found.backbone.order) == (after != "layer1")
    assert "layer4.0" not in found.backbone.order
    np.testing.assert_allclose(found(X), found.tail(expected), rtol=1e-6)


@pytest.mark.parametrize("kind", ["paq2piq", "spaq_bl"])
def test_a_metric_that_normalises_in_another_way_is_refused(kind):
    model = nnx.eval_shape(lambda: models.build(metric=kind))
    with pytest.raises(TypeError, match="which does not normalise pixels as the backbone resnet"):
        control_tail(model, after="layer1", channels=8, rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_the_parent_shares_nothing_with_it():
    model = parent()
    before, found = model(X), controlled(model, "layer2")
    for variable in key_map.parameters(found).values():
        variable.set_value(jnp.zeros_like(variable[...]))
    np.testing.assert_array_equal(model(X), before)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["layer2", "last"])
def test_it_is_saved_and_loaded(after, tmp_path):
    """A block before a stage that is left out is placed again, too."""
    found = controlled(parent(input_size=(40, 56)), after)
    found.calibrate(k=-1 / 3, b=0.1, score_range=(0.0, 1.0))
    models.save(found, tmp_path)
    loaded = models.load_run(tmp_path)
    assert type(loaded) is NormControlled
    assert loaded.input_size == (40, 56)
    np.testing.assert_array_equal(loaded(X), found(X))


@pytest.mark.slow
def test_the_output_of_a_frozen_trunk_is_enough():
    found = controlled(parent(), "last")
    for stop in ("conv1", "layer1", "early", found.backbone.order[-1]):
        again = found.outputs_from(found.trunk(X, stop), stop)["score"]
        np.testing.assert_allclose(again, found.raw(X), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(65, 70), (80, 64)])
def test_its_bound_is_that_of_the_traced_tail(size):
    found = models.build("resnet18", metric="norm_controlled", width=8, after="layer1", channels=4, depth=1)
    found.tail.log_slope[...] = jnp.log(jnp.array([20.0], jnp.float32))
    found.calibrate(k=-2.0, b=3.0, score_range=(0.0, 1.0))
    h, w, c = found.trunk(jnp.zeros((1, *size, 3)), "layer1").shape[1:]
    traced = 2 * report(found.tail, (h, w, c), lower=False).bound
    assert found.tail_bound(size) == pytest.approx(traced, rel=0.01)
    assert found.tail_bound(size) == pytest.approx(40 / np.sqrt(h * w), rel=1e-5)


@pytest.mark.slow
def test_a_score_function_gives_the_same_scores():
    found = controlled(parent(), "layer2")
    for size in (None, X.shape[1:3]):
        np.testing.assert_allclose(models.score_fn(found, size)(X), found(X), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_new_blocks_after_the_trunk_belong_to_it():
    found = controlled(tiny.metric(), "layer2")
    harden(found, "after:layer2", mid=2, rngs=nnx.Rngs(1))
    assert found.backbone.order[-1] == "robust_block"
    assert found.features(X, ("layer2", "pooled"))["pooled"].shape == (2, 4)
    assert np.isfinite(found(X)).all()


@pytest.mark.slow
def test_imagenet_weights_fill_the_stages_that_it_has(tmp_path):
    whole = tiny.metric()
    file = tmp_path / "imagenet.safetensors"
    names = {name.removeprefix("features."): array for name, array in tiny.checkpoint(whole).items()}
    layers = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in range(1, 5)}}
    arrays = {}
    for name, array in names.items():
        first, _, rest = name.partition(".")
        if first in layers:
            arrays[f"{layers[first]}.{rest}"] = array
    import safetensors.numpy

    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    found = models.build("resnet18", metric="norm_controlled", width=8, after="layer2", channels=4, weights=file)
    expected = whole.features(X, ("layer2",))["layer2"]
    np.testing.assert_allclose(found.features(X, ("layer2",))["layer2"], expected, rtol=1e-5, atol=1e-6)
    del arrays["layer4.0.conv1.weight"]
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    with pytest.raises(ValueError, match=r"layer4\.0\.conv1\.kernel: missing"):
        models.build("resnet18", metric="norm_controlled", width=8, after="layer2", channels=4, weights=file)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", every(4, sorted(BACKBONES)))
def test_every_backbone_has_a_default_trunk(backbone):
    found = nnx.eval_shape(lambda: NormControlled(backbone, channels=4, rngs=nnx.Rngs(0)))
    assert found.backbone.order[-1].partition(".")[0] == BACKBONES[backbone].taps[0].partition(".")[0]
    size = (2, 96, 128, 3)
    assert nnx.eval_shape(lambda model, x: model(x), found, jax.ShapeDtypeStruct(size, jnp.float32)).shape == (2,)


def test_faults_are_named():
    own = nnx.eval_shape(lambda: MODELS["fpr"].metric(width=8, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"model is a FPR with a network of its own; .*resnet18"):
        control_tail(own, after="sfl3", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"stage 'layer9' does not exist; the stages are conv1"):
        control_tail(tiny.metric(), after="layer9", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="channels=5 is odd"):
        control_tail(tiny.metric(), after="layer2", channels=5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="input_size=0 is outside"):
        NormControlled("resnet18", width=8, input_size=(0, 8), rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_block_without_a_stage_before_it_cannot_end_a_trunk():
    model = tiny.metric()
    harden(model, "before:conv1", "bottleneck", name="first", mid=3, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="stage='first' leaves no stage of the network before it"):
        controlled(model, "first")
    assert replace(controlled(model, "conv1").insertions[0]).where == "before:conv1"
