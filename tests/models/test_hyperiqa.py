import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx
from scipy.special import expit

from jaxiqa.models import harden
from jaxiqa.models.hyperiqa import HYPERIQA_SPEC, HyperIQA
from jaxiqa.nn.crops import grid_positions
from jaxiqa.pretrained import key_map

X = jax.random.uniform(jax.random.key(1), (2, 224, 224, 3))


def abstract(**options):
    return nnx.eval_shape(lambda: HyperIQA(width=4, rngs=nnx.Rngs(0), **options))


@pytest.fixture(scope="module")
def model():
    return tiny.filled(abstract(crops=2), gain=0.8)


@pytest.fixture(scope="module")
def network(model):
    return jax.jit(lambda pixels: model.network(pixels))


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    names = ["layer1", "layer2", "layer3", "layer4", "hyper", "distortion", "w1", "w4", "b4", "w5", "t1", "t3"]
    parity.check(shared, "hyperiqa", HYPERIQA_SPEC, names)


def coordinates(height: int, width: int) -> jax.Array:
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return jnp.asarray(np.stack([rows, columns, rows], axis=-1)[None], jnp.float32)


def corners(crops) -> list[tuple[int, int]]:
    return [tuple(corner) for corner in np.round(np.asarray(crops[:, 0, 0, :2])).astype(int).tolist()]


@pytest.mark.slow
def test_official_crops_cover_the_resized_image():
    prepared = abstract().prepare(coordinates(512, 384))
    assert prepared.shape == (25, 224, 224, 3)
    assert corners(prepared) == grid_positions(512, 384, 224, 25)
    assert corners(prepared)[0] == (0, 0)
    assert corners(prepared)[-1] == (288, 160)


@pytest.mark.slow
def test_official_protocol_resizes_to_height_512_and_width_384():
    """The input is twice as high and four times as wide: rows 0 and 1 average to 1/2, columns 0 to 3 to 3/2."""
    prepared = abstract(crops=1).prepare(coordinates(1024, 1536))
    np.testing.assert_allclose(prepared[0, :, 0, 0], 2 * (144 + np.arange(224)) + 0.5, rtol=1e-4)
    np.testing.assert_allclose(prepared[0, 0, :, 1], 4 * (80 + np.arange(224)) + 1.5, rtol=1e-4)


@pytest.mark.slow
def test_random_crops_follow_the_key():
    model, image = abstract(crops=3), coordinates(512, 384)
    first = corners(model.prepare(image, jax.random.key(0)))
    assert first == corners(model.prepare(image, jax.random.key(0)))
    assert first != corners(model.prepare(image, jax.random.key(1)))
    assert len(first) == 3


def test_pyiqa_crops_do_not_resize():
    prepared = abstract(protocol="pyiqa").prepare(coordinates(301, 254))
    # (301 - 224) // 5 = 15 and (254 - 224) // 5 = 6
    assert corners(prepared) == [(15 * i, 6 * j) for i in range(5) for j in range(5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"protocol": "mine"}, "protocol='mine' is not allowed"), ({"crops": 0}, "crops=0 is outside")],
)
def test_errors_name_the_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        abstract(**options)


@pytest.mark.slow
def test_the_network_takes_only_crops_of_its_size(model):
    with pytest.raises(ValueError, match="the network takes crops of 224x224"):
        model.network(jnp.zeros((1, 224, 256, 3)))


@pytest.mark.slow
def test_a_batch_equals_its_images_one_by_one(model, network):
    images = jax.random.uniform(jax.random.key(0), (3, 97, 150, 3))
    scores = jax.jit(lambda x: model(x))(images)
    assert np.std(scores) > 1e-4
    np.testing.assert_allclose(scores, [network(model.prepare(image[None])).mean() for image in images], rtol=1e-4)


@pytest.mark.slow
def test_pooling_before_the_convolution_gives_the_same(model):
    """The original convolves first and pools the result."""
    lda = model.distortions[0]
    x = jax.random.normal(jax.random.key(0), (2, 56, 56, 16))
    pooled = nnx.avg_pool(lda.conv(x), (7, 7), (7, 7)).transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_allclose(lda(x), lda.linear(pooled), atol=1e-5)


@pytest.mark.slow
def test_every_image_has_its_own_network(model):
    """Compute each crop's score from its own weights in NumPy."""
    names = ["distortion", "score", *(f"{kind}{i}" for kind in "wb" for i in range(1, 6))]
    maps = jax.tree.map(np.asarray, jax.jit(lambda x: model.features(x, names))(X))
    for k in range(2):
        x = maps["distortion"][k]
        for i in range(1, 6):
            x = maps[f"w{i}"][k] @ x + maps[f"b{i}"][k]
            x = expit(x) if i < 5 else x
        np.testing.assert_allclose(maps["score"][k], x[0], rtol=1e-4)
    assert np.abs(maps["w1"][0] - maps["w1"][1]).max() > 1e-3


def test_pyiqa_checkpoint_is_refused(model):
    with pytest.raises(ValueError, match="unknown"):
        key_map.fill(model, {"base_model.conv1.weight": np.zeros((64, 3, 7, 7))}, HYPERIQA_SPEC.rules, source="pyiqa")


@pytest.mark.slow
def test_hardening(model, network):
    hardened = nnx.clone(model)
    harden(hardened, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    scores = jax.jit(lambda x: hardened.network(x))(X)
    assert scores.shape == (2,)
    assert not np.allclose(scores, network(X))
