import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx
from PIL import Image

from jaxiqa.models import harden
from jaxiqa.models.metaiqa import METAIQA_SPEC, RULES, MetaIQA
from jaxiqa.pretrained import key_map

X = jax.random.uniform(jax.random.key(1), (2, 224, 224, 3))


def abstract(**options):
    return nnx.eval_shape(lambda: MetaIQA(width=4, rngs=nnx.Rngs(0), **options))


@pytest.fixture(scope="module")
def model():
    return tiny.filled(abstract())


@pytest.fixture(scope="module")
def network(model):
    return jax.jit(lambda pixels: model.network(pixels))


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    stages = ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    parity.check(shared, "metaiqa", METAIQA_SPEC, [*stages, "classifier", "hidden1", "hidden2", "fc3"])


@pytest.mark.slow
def test_pyiqa_names_the_head_differently(shared):
    record, _ = parity.read(shared, "metaiqa")
    arrays = parity.weights(record)
    renamed = {key.replace("net.", "head.") if key.startswith("net.") else key: arrays[key] for key in arrays}
    models = [nnx.eval_shape(lambda: MetaIQA(rngs=nnx.Rngs(0))) for _ in range(2)]
    for model, checkpoint in zip(models, (arrays, renamed), strict=True):
        key_map.fill(model, checkpoint, RULES, source="demo")
    ours, theirs = (key_map.parameters(model) for model in models)
    assert any(key.startswith("head.") for key in renamed)
    for name in ours:
        np.testing.assert_array_equal(ours[name][...], theirs[name][...])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 451), (501, 227), (100, 640)])
def test_official_protocol_resizes_as_pillow_does(size):
    """Pillow rounds to 8 bits after each of its two passes, so it may be off by one grey level."""
    pixels = np.asarray(jax.random.randint(jax.random.key(0), (*size, 3), 0, 256), np.uint8)
    prepared = abstract().prepare(jnp.asarray(pixels, jnp.float32)[None] / 255)[0]
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)) / 255
    assert np.abs(prepared - expected).max() < 1.01 / 255


@pytest.mark.slow
def test_pyiqa_protocol_reads_the_four_nearest_pixels():
    """For 1120 = 5 · 224 pixels a side, output i is at 5i + 2 exactly: every fifth pixel is copied."""
    image = jax.random.uniform(jax.random.key(0), (1, 1120, 672, 1)).repeat(3, axis=3)
    prepared = abstract(protocol="pyiqa").prepare(image)
    np.testing.assert_allclose(prepared, image[:, 2::5, 1::3], atol=1e-5)


def test_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="protocol='mine' is not allowed; choose from 'official', 'pyiqa'"):
        abstract(protocol="mine")


@pytest.mark.slow
def test_a_batch_equals_its_images_one_by_one(model, network):
    images = jax.random.uniform(jax.random.key(0), (3, 97, 150, 3))
    scores = jax.jit(lambda x: model(x))(images)
    assert ((scores > 0) & (scores < 1)).all()
    assert np.std(scores) > 1e-4
    pairs = [network(model.prepare(images[jnp.array(pair)])) for pair in ([0, 1], [2, 0])]
    np.testing.assert_allclose(scores, [pairs[0][0], pairs[0][1], pairs[1][0]], rtol=1e-5)


def test_a_key_changes_nothing(model):
    np.testing.assert_array_equal(model.prepare(X), model.prepare(X, jax.random.key(0)))


def test_features_returns_the_requested_stages_only(model):
    pixels = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    assert set(model.features(pixels, ("layer1",))) == {"layer1"}
    with pytest.raises(ValueError, match="stage 'fc4' does not exist; the stages are conv1"):
        model.features(pixels, ("fc4",))


@pytest.mark.slow
def test_hardening(model, network):
    hardened = nnx.clone(model)
    harden(hardened, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    scores = jax.jit(lambda x: hardened.network(x))(X)
    assert scores.shape == (2,)
    assert not np.allclose(scores, network(X))
