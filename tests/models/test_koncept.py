import jax
import jax.numpy as jnp
import keras_inception
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, harden, load
from jaxiqa.models.koncept import KonCept512
from jaxiqa.pretrained import key_map

TAPS = ["conv2d_1a", "mixed_5b", "block35", "mixed_6a", "block17", "block8.8", "conv2d_7b", "pooled", "hidden"]


@pytest.fixture(scope="module")
def narrow():
    return nnx.eval_shape(lambda: KonCept512(width=2, rngs=nnx.Rngs(0)))


def shape(model, *size: int) -> tuple[int, ...]:
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(lambda state, images: nnx.merge(graphdef, state)(images), state, images).shape


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    parity.check(shared, "koncept512", MODELS["koncept512"], TAPS)


@pytest.mark.slow
def test_pools_the_top_left_of_every_image_of_a_batch(narrow):
    model = tiny.filled(nnx.clone(narrow))
    graphdef, state = nnx.split(model)
    images = jax.random.uniform(jax.random.key(0), (3, 331, 300, 3))

    @jax.jit
    def run(state, images):
        model = nnx.merge(graphdef, state)
        return model(images), model.features(images, ("pooled", "conv2d_7b"))

    scores, features = run(state, images)
    np.testing.assert_allclose(features["pooled"], features["conv2d_7b"][:, :8, :8].mean((1, 2)), rtol=1e-5)
    assert features["conv2d_7b"].shape[1:3] == (9, 8)
    np.testing.assert_allclose(model.head(features["pooled"]), scores, rtol=1e-4)
    single = jnp.concatenate([run(state, images[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(single, scores, rtol=1e-4)
    assert len(set(scores.tolist())) == 3


@pytest.mark.slow
def test_full_pooling_is_the_mean_of_the_whole_map():
    model = tiny.filled(nnx.eval_shape(lambda: KonCept512(pooling="full", width=2, rngs=nnx.Rngs(0))))
    graphdef, state = nnx.split(model)
    x = jax.random.uniform(jax.random.key(0), (2, 75, 108, 3))
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state).features(x, ("conv2d_7b", "pooled")))
    features = run(state, x)
    assert features["conv2d_7b"].shape[1:3] == (1, 2)
    np.testing.assert_allclose(features["pooled"], features["conv2d_7b"].mean((1, 2)), rtol=1e-6)


@pytest.mark.slow
def test_images_are_scored_as_they_are(narrow):
    images = jnp.zeros((1, 299, 554, 3))
    assert narrow.prepare(images, jax.random.key(0)) is images
    assert shape(narrow, 299, 554) == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(298, 384), (384, 555)])
def test_sizes_that_the_official_pooling_cannot_take_are_refused(narrow, size):
    with pytest.raises(ValueError, match=r"8x8 to 15x15, .* 299 to 554 pixels.*pooling='full'"):
        shape(narrow, *size)


def test_images_without_a_last_map_and_other_poolings_are_refused(narrow):
    with pytest.raises(ValueError, match="images is 74x90; both sides must be at least 75 pixels"):
        narrow.prepare(jnp.zeros((1, 74, 90, 3)))
    with pytest.raises(ValueError, match="pooling='max' is not allowed; choose from 'official', 'full'"):
        KonCept512(pooling="max", rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_can_be_hardened_where_the_paper_does(narrow):
    """arXiv:2506.04951 inserts its block between block8 and conv2d_7b."""

    def hardened() -> KonCept512:
        model = KonCept512(width=2, rngs=nnx.Rngs(0))
        harden(model, "after:block8", mid=4, rngs=nnx.Rngs(1))
        return model

    model = nnx.eval_shape(hardened)
    assert model.backbone.order[-2:] == ("robust_block", "conv2d_7b")
    assert model.insertions[0].where == "after:block8"
    assert shape(model, 384, 512) == (2,)


@pytest.mark.slow
def test_the_papers_own_keras_file_is_read(narrow):
    """Layer names are those of the training code; its batch norms add 1e-3 to the variance, ours in the head 1e-5."""
    parameters, generator = key_map.parameters(narrow), np.random.default_rng(0)
    backbone = {name.removeprefix("backbone."): p for name, p in parameters.items() if name.startswith("backbone.")}
    arrays, expected = keras_inception.write(backbone, generator, first=1)
    for i, layer in enumerate(("fc_fc0", "fc_fc1", "fc_fc2", "fc_out")):
        for part in ("kernel", "bias"):
            arrays[f"{layer}.{part}"] = generator.random(parameters[f"head.linear.{i}.{part}"].shape, np.float32)
    for i in range(3):
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"fc_bn{i}.{part}"] = generator.random(parameters[f"head.norm.{i}.mean"].shape, np.float32)
    model = load("koncept512", arrays, width=2, pooling="full")
    found = key_map.parameters(model)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[f"backbone.{name}"][...], values)

    x = generator.random((2, narrow.backbone.widths[-1]), np.float32)
    y = x.astype(np.float64)
    for i in range(3):
        y = np.maximum(y @ arrays[f"fc_fc{i}.kernel"] + arrays[f"fc_fc{i}.bias"], 0)
        norm = {part: arrays[f"fc_bn{i}.{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        y = norm["gamma"] * (y - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) + norm["beta"]
    wanted = (y @ arrays["fc_out.kernel"] + arrays["fc_out.bias"])[:, 0]
    np.testing.assert_allclose(model.head(jnp.asarray(x)), wanted, rtol=1e-4)

    del arrays["fc_bn1.gamma"]
    with pytest.raises(ValueError, match=r"head\.norm\.1\.scale: missing"):
        load("koncept512", arrays, width=2)
