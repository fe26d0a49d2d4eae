import zlib

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import harden
from jaxiqa.models.spaq import SPAQ_SPEC, SPAQBaseline

X = jax.random.uniform(jax.random.key(1), (2, 224, 224, 3))


@pytest.fixture(scope="module")
def model():
    return tiny.filled(nnx.eval_shape(lambda: SPAQBaseline(width=4, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def network(model):
    return jax.jit(lambda pixels: model.network(pixels))


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    parity.check(shared, "spaq_bl", SPAQ_SPEC, ["maxpool", "layer1", "layer2", "layer3", "layer4", "pool"])


@pytest.mark.slow
def test_patches_are_at_the_positions_of_the_original(shared, model):
    """The first pixel of each patch holds its coordinates."""
    record, _ = parity.read(shared, "spaq_bl")
    for name, patches in record["protocol"]["patches"].items():
        height, width = (int(part[1:]) for part in name.split("_"))
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        image = jnp.asarray(np.stack([rows, columns, rows], axis=-1)[None], jnp.float32)
        corners = model.prepare(image)[:, 0, 0, :2]
        assert corners.astype(int).tolist() == patches["top_left_in_order"]


@pytest.mark.slow
def test_resize_agrees_with_pillow(shared, model):
    """Pillow rounds to 8 bits after each of its two passes, so it may be off by one grey level."""
    record, _ = parity.read(shared, "spaq_bl")
    check = record["protocol"]["resize_check"][0]
    height, width = check["source_hw"]
    random = np.random.RandomState(zlib.crc32(b"protocol-image"))
    image = np.floor(256 * random.random_sample((height, width, 3))) / 255
    patches = np.asarray(model.prepare(jnp.asarray(image[None], jnp.float32)))
    assert check["result_hw"] == [512, 682]
    tops, lefts = (0, 112, 224, 288), (0, 112, 224, 336, 448, 458)
    resized = np.zeros((512, 682, 3))
    for patch, (top, left) in zip(patches, [(top, left) for top in tops for left in lefts], strict=True):
        resized[top : top + 224, left : left + 224] = patch
    assert np.abs(resized.reshape(-1)[check["flat_index"]] - np.array(check["values"]) / 255).max() < 1.01 / 255


@pytest.mark.parametrize(
    ("height", "width", "patches"),
    [(224, 224, 1), (225, 336, 2 * 2), (300, 511, 2 * 4), (512, 512, 16), (1023, 513, 4 * 9), (513, 1023, 4 * 9)],
)
def test_number_of_patches(model, height, width, patches):
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    assert jax.eval_shape(lambda x: model.prepare(x), images).shape == (2 * patches, 224, 224, 3)


def test_too_small_an_image_is_refused(model):
    with pytest.raises(ValueError, match="images is 223x400; both sides must be at least 224 pixels"):
        model(jnp.zeros((1, 223, 400, 3)))


@pytest.mark.slow
def test_a_score_is_the_mean_over_the_patches_of_its_own_image(model, network):
    images = jax.random.uniform(jax.random.key(0), (2, 230, 224, 3))
    scores = jax.jit(lambda x: model(x))(images)
    assert np.std(scores) > 1e-4
    expected = [network(jnp.stack([image[:224], image[6:]])).mean() for image in images]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_key_changes_nothing(model):
    np.testing.assert_array_equal(model.prepare(X), model.prepare(X, jax.random.key(0)))


@pytest.mark.slow
def test_hardening(model, network):
    hardened = nnx.clone(model)
    harden(hardened, "after:layer4", mid=8, rngs=nnx.Rngs(1))
    scores = jax.jit(lambda x: hardened.network(x))(X)
    assert scores.shape == (2,)
    assert not np.allclose(scores, network(X))
