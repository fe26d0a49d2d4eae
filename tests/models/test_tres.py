import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, harden
from jaxiqa.models.tres import TReS
from jaxiqa.nn.crops import grid_positions
from jaxiqa.nn.level_pooling import l2_pool_smooth, unit_channels

NAMES = [*(f"layer{i}" for i in (1, 2, 3, 4)), "encoder.0", "pooled", "encoder", "fc2", "position"]
IMAGES = jax.random.uniform(jax.random.key(0), (2, 301, 453, 3))


def abstract(**options) -> TReS:
    return nnx.eval_shape(lambda: TReS(width=8, rngs=nnx.Rngs(0), **options))


def jitted(method):
    """Compile a method of a narrow model as a function of its arguments."""
    graphdef, state = nnx.split(method.__self__)
    return lambda *x: jax.jit(lambda state, *x: getattr(nnx.merge(graphdef, state), method.__name__)(*x))(state, *x)


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    """The pass over the mirrored image is not computed: no output depends on it."""
    layout = {
        4: lambda maps: maps.reshape(2, 49, -1).transpose(1, 0, 2),
        8: lambda maps: maps.transpose(0, 3, 1, 2).repeat(2, axis=0),
    }
    parity.check(shared, "tres", MODELS["tres"], NAMES, layout=layout)


@pytest.mark.slow
def test_only_weights_that_no_score_depends_on_are_dropped(shared):
    record, expected = parity.read(shared, "tres")
    targets = {
        key: next(rule[1] for rule in MODELS["tres"].rules if re.fullmatch(rule[0], key)) for key, *_ in record["keys"]
    }
    dropped = {key for key, target in targets.items() if target is None and not key.endswith("num_batches_tracked")}
    assert dropped == {"model.fc.weight", "model.fc.bias", *(f"L2pooling_l{i}.filter" for i in (1, 2, 3, 4))}
    impulse = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    np.testing.assert_allclose(l2_pool_smooth(impulse)[0, :, :, 0] ** 2, expected["const_0"][0, 0], atol=1e-6)


@pytest.mark.slow
def test_official_crops_cover_the_image_as_pillow_resizes_it(shared):
    """Pillow rounds to 8 bits after each of its two passes, so it may be off by one grey level."""
    check = parity.read(shared, "tres")[0]["protocol"]["resize_check"][0]
    generator = np.random.RandomState(zlib.crc32(b"protocol-image"))
    image = np.floor(256 * generator.random_sample((*check["source_hw"], 3))).astype(np.float32)
    crops = np.asarray(abstract().prepare(jnp.asarray(image)[None] / 255))
    positions = grid_positions(512, 384, 224, 50)
    assert len(crops) == len(positions) == 50
    assert (positions[0], positions[-1]) == ((0, 0), (288, 160))
    resized = np.full((512, 384, 3), np.nan)
    for crop, (top, left) in zip(crops, positions, strict=True):
        resized[top : top + 224, left : left + 224] = crop
    difference = 255 * resized.ravel()[check["flat_index"]] - check["values"]
    assert np.abs(difference).max() < 1.01


@pytest.mark.slow
def test_random_crops_repeat_for_a_key_and_lie_in_the_resized_image():
    model = abstract()
    one, again, other = (model.prepare(IMAGES, jax.random.key(seed)) for seed in (1, 1, 2))
    assert one.shape == (100, 224, 224, 3)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 512)[:, None, None], (512, 384, 3))[None]
    tops = model.prepare(ramp, jax.random.key(0))[:, 0, 0, 0] * 511
    assert tops.min() >= 0
    assert tops.max() <= 288.01
    assert len(np.unique(np.round(tops))) > 25


@pytest.mark.slow
def test_pyiqa_crops_lie_on_its_grid_at_native_size():
    """Steps (301 - 224) // 7 = 11 and (453 - 224) // 7 = 32, eight crops a row."""
    crops = abstract(protocol="pyiqa").prepare(IMAGES)
    np.testing.assert_array_equal(crops[9], IMAGES[0, 11 : 11 + 224, 32 : 32 + 224])
    np.testing.assert_array_equal(crops[50 + 49], IMAGES[1, 66 : 66 + 224, 32 : 32 + 224])
    assert abstract(protocol="pyiqa").prepare(IMAGES[:, :100, :150]).shape == (100, 224, 224, 3)


@pytest.mark.slow
def test_the_whole_image_is_one_crop():
    model = TReS(protocol="whole", width=8, rngs=nnx.Rngs(0))
    resized = jax.image.resize(IMAGES, (2, 224, 224, 3), "bilinear", antialias=True)
    np.testing.assert_array_equal(model.prepare(IMAGES), resized)
    scores = jitted(model.__call__)
    np.testing.assert_allclose(scores(IMAGES), jitted(model.network)(resized), rtol=1e-5)
    np.testing.assert_allclose(scores(IMAGES)[1:], scores(IMAGES[1:]), rtol=1e-4)
    np.testing.assert_array_equal(model.prepare(resized), resized)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["official", "pyiqa", "whole"])
def test_images_are_prepared_one_by_one(protocol):
    model = abstract(protocol=protocol)
    crops = model.prepare(IMAGES)
    np.testing.assert_allclose(crops[len(crops) // 2 :], model.prepare(IMAGES[1:]), atol=1e-6)


@pytest.mark.slow
def test_a_score_is_the_mean_over_the_crops_of_its_image():
    model = tiny.filled(abstract(crops=3))
    items = jitted(model.network)(model.prepare(IMAGES))
    np.testing.assert_allclose(jitted(model.__call__)(IMAGES), items.reshape(2, 3).mean(1), rtol=1e-4)
    assert np.ptp(items) > 1e-3


@pytest.mark.slow
def test_a_hardened_model_scores_through_its_block():
    model = tiny.filled(abstract())
    crops = model.prepare(IMAGES)[:2]
    before = jitted(model.network)(crops)
    harden(model, "after:layer4", mid=8, rngs=nnx.Rngs(1))
    after = jitted(model.network)(crops)
    assert after.shape == (2,)
    assert np.isfinite(after).all()
    assert not np.allclose(before, after)
    assert len(model.insertions) == 1


@pytest.mark.slow
def test_the_gradient_is_finite_if_all_channels_are_zero():
    gradient = jax.grad(lambda x: l2_pool_smooth(unit_channels(x)).sum())(jnp.zeros((1, 3, 3, 4)))
    assert np.isfinite(gradient).all()


def test_errors_name_the_bad_argument():
    with pytest.raises(ValueError, match="protocol='pyqa' is not allowed; choose from 'official', 'pyiqa', 'whole'"):
        TReS(protocol="pyqa", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="crops=0 is outside"):
        TReS(crops=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="pixels is 223x224; this network takes crops of 224x224"):
        abstract().network(jnp.zeros((1, 223, 224, 3)))
    with pytest.raises(ValueError, match="stage 'layer5' does not exist"):
        abstract().features(jnp.zeros((1, 224, 224, 3)), ["layer5"])
