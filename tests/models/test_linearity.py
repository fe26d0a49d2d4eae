from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx
from PIL import Image

from jaxiqa.models import build, harden, score_fn
from jaxiqa.models.linearity import RULES, Linearity
from jaxiqa.pretrained import key_map

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))


@pytest.fixture
def model():
    return tiny.metric()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet101", "resnext101_32x8d"])
def test_agrees_with_the_original_class(shared, backbone):
    """Compare scores, taps and the input gradient, within the tolerances of the record."""
    record, expected = parity.read(shared, f"linearity_{backbone}")
    model = nnx.eval_shape(lambda: Linearity(backbone, rngs=nnx.Rngs(0)))
    key_map.fill(model, parity.weights(record), RULES, source=backbone)
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    graphdef, state = nnx.split(model)
    names = ("maxpool", "layer1", "layer2", "layer3", "f6", "layer4", "f7")

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(pixels, state):
        model = nnx.merge(graphdef, state)
        score = model.network(pixels)
        return score.sum(), (score, model.outputs(pixels), model.features(pixels, names))

    pixels = jnp.asarray(expected["image_uint8"], jnp.float32) / 255
    (_, (score, outputs, features)), gradient = run(pixels, state)
    taps = [features[name].transpose(0, 3, 1, 2) if features[name].ndim == 4 else features[name] for name in names]
    parity.compare(record, expected, score, taps, gradient, output="q")
    for name in ("q6", "q7"):
        np.testing.assert_allclose(
            outputs[name], expected[f"out_{name}_f64"], rtol=record["suggested_tolerance"]["score_rel"]
        )


@pytest.mark.slow
def test_published_calibration_gives_the_published_scale(shared):
    record, expected = parity.read(shared, "linearity_resnet101")
    k, b = (record["score_mapping"][name][0] for name in "kb")
    model = tiny.metric()
    raw = model.outputs(X)["score"]
    model.calibrate(k=k, b=b, score_range=(0.0, 100.0))
    np.testing.assert_allclose(model.network(X), k * raw + b, rtol=1e-5)
    np.testing.assert_allclose(k * expected["out_q"] + b, expected["out_mapped"], rtol=1e-6)


@pytest.mark.parametrize("size", [(23, 31), (60, 41), (30, 90)])
def test_prepare_agrees_with_pillow(size):
    """Pillow rounds to 8 bits after each of its two passes, so it may be off by one grey level."""
    pixels = np.asarray(jax.random.randint(jax.random.key(0), (40, 50, 3), 0, 256), np.uint8)
    model = tiny.abstract(input_size=size)
    prepared = model.prepare(jnp.asarray(pixels, jnp.float32)[None] / 255)[0]
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)) / 255
    assert prepared.shape == (*size, 3)
    assert np.abs(prepared - expected).max() < 1.01 / 255


def test_prepare_does_not_change_images_of_the_right_size():
    for size in (None, (40, 56)):
        model = tiny.abstract(input_size=size)
        assert model.prepare(X) is X


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["layer2.0", "layer3"])
def test_continuing_from_stored_activations_changes_nothing(model, stop):
    harden(model, "after:layer3", mid=4, rngs=nnx.Rngs(1))
    found, expected = model.outputs_from(model.trunk(X, stop), stop), model.outputs(X)
    for name in ("q6", "q7", "score"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_activations_after_a_tap_are_refused(model):
    with pytest.raises(ValueError, match=r"does not pass 'layer3'; the stages are conv1, maxpool, layer1.0"):
        model.outputs_from(model.trunk(X, "layer4.0"), "layer4.0")


def test_there_is_no_score_range_before_calibration(model):
    with pytest.raises(ValueError, match="no score_range yet"):
        _ = model.score_range
    for k, b, score_range in [(float("nan"), 0.0, (0.0, 1.0)), (1.0, 0.0, (1.0, 1.0)), (1.0, 0.0, (0.0, float("inf")))]:
        with pytest.raises(ValueError, match=r"k=nan|score_range="):
            model.calibrate(k=k, b=b, score_range=score_range)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "backbone='resnet19' is not allowed; choose from 'efficientnet_lite0'"),
        ({"taps": ("layer4", "layer3")}, "must be two stages in the order of conv1"),
        ({"taps": ("layer3", "layer5")}, "stage 'layer5' does not exist; the stages are conv1"),
        ({"width": 0}, "width=0 is outside"),
        ({"input_size": (0, 5)}, "input_size=0 is outside"),
    ],
)
def test_errors_name_the_bad_argument(options, message):
    with pytest.raises(ValueError, match=message):
        build(**{"backbone": "resnet18", "width": 8, **options})


def test_images_must_have_four_axes_and_be_float(model):
    score = score_fn(model)
    for images in (jnp.zeros((40, 40, 3)), jnp.zeros((1, 40, 40, 3), jnp.uint8)):
        with pytest.raises(Exception, match=r"images"):
            score(images)
