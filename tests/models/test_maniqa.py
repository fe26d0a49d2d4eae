import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, harden
from jaxiqa.models.maniqa import MANIQA, ChannelAttention
from jaxiqa.nn.backbones.swin import merge, partition, relative_positions, shift_mask
from jaxiqa.nn.crops import grid_positions

NAMES = [
    "patch_embed",
    *(f"block{i}" for i in (0, 6, 9)),
    *("tablock1.1", "swin1", "tablock2.1", "swin2", "fc_score", "fc_weight"),
]
IMAGES = jax.random.uniform(jax.random.key(0), (2, 231, 301, 3))


def abstract(**options) -> MANIQA:
    return nnx.eval_shape(lambda: MANIQA(width=24, rngs=nnx.Rngs(0), **options))


def jitted(model: MANIQA, call):
    """Compile ``call(model, x)`` as one program."""
    graphdef, state = nnx.split(model)
    return lambda x: jax.jit(lambda state, x: call(nnx.merge(graphdef, state), x))(state, x)


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    """The last blocks are not computed: no output depends on them."""
    layout = {i: lambda maps: maps[0].reshape(784, 1) for i in (8, 9)}
    parity.check(shared, "maniqa", MODELS["maniqa"], NAMES, layout=layout)


def test_only_weights_that_no_score_depends_on_are_dropped(shared):
    record, expected = parity.read(shared, "maniqa")
    rules = MODELS["maniqa"].rules
    targets = {key: next(rule[1] for rule in rules if re.fullmatch(rule[0], key)) for key, *_ in record["keys"]}
    dropped = {key for key, target in targets.items() if target is None}
    unused = {
        key for key in dropped if re.match(r"vit\.(blocks\.1[01]|norm|head)\.|swintransformer[12]\.downsample", key)
    }
    tables = {key for key in dropped if re.search(r"\.(attn\.relative_position_index|attn_mask)$", key)}
    assert dropped == unused | tables
    assert sum(np.prod(shape) for key, shape, _ in record["keys"] if key in unused) == 21_582_952
    np.testing.assert_array_equal(relative_positions(4), expected["const_0"])
    np.testing.assert_array_equal(shift_mask((28, 28), 4, 2), expected["const_1"])


def test_merging_windows_restores_the_map():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    windows = partition(x, 4)
    np.testing.assert_array_equal(windows[1], x[0, :4, 4:8].reshape(16, 3))
    np.testing.assert_array_equal(merge(windows, (8, 12), 4), x)


def test_channel_attention_keeps_the_authors_order_of_the_product():
    """Value (i, j) of the added term is value (m mod c, m div c) of A v, m = i N + j."""
    b, h, w, c = 2, 2, 3, 4
    layer = ChannelAttention(h * w, rngs=nnx.Rngs(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (b, h, w, c)))
    rows = x.reshape(b, h * w, c).transpose(0, 2, 1)
    q, k, v = (rows @ np.asarray(m.kernel[...]) + np.asarray(m.bias[...]) for m in (layer.c_q, layer.c_k, layer.c_v))
    logits = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(h * w))
    product = logits / logits.sum(-1, keepdims=True) @ v
    added = np.empty_like(rows)
    for i in range(c):
        for j in range(h * w):
            column, row = divmod(i * h * w + j, c)
            added[:, i, j] = product[:, row, column]
    expected = (rows + added).transpose(0, 2, 1).reshape(b, h, w, c)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-5)


@pytest.mark.slow
def test_official_crops_lie_on_an_even_grid_at_native_size():
    crops = abstract().prepare(IMAGES)
    positions = grid_positions(231, 301, 224, 20)
    assert len(positions) == 20
    assert (positions[0], positions[-1]) == ((0, 0), (7, 77))
    for i, (top, left) in enumerate(positions):
        np.testing.assert_array_equal(crops[20 + i], IMAGES[1, top : top + 224, left : left + 224])


@pytest.mark.slow
def test_random_crops_repeat_for_a_key():
    one, again, other = (abstract().prepare(IMAGES, jax.random.key(seed)) for seed in (1, 1, 2))
    assert one.shape == (40, 224, 224, 3)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_pyiqa_crops_lie_on_its_grid():
    """Steps (231 - 224) // 4 = 1 and (301 - 224) // 4 = 19, five crops a row."""
    crops = abstract(protocol="pyiqa").prepare(IMAGES)
    assert crops.shape == (40, 224, 224, 3)
    np.testing.assert_array_equal(crops[20 + 7], IMAGES[1, 1 : 1 + 224, 38 : 38 + 224])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["official", "resize", "pyiqa"])
def test_images_are_prepared_one_by_one(protocol):
    model = abstract(protocol=protocol)
    crops = model.prepare(IMAGES)
    np.testing.assert_allclose(crops[len(crops) // 2 :], model.prepare(IMAGES[1:]), atol=1e-6)


@pytest.mark.slow
def test_scores_are_averaged_as_in_the_protocol(monkeypatch):
    """The mean of ratios, or the ratio of sums."""
    model = tiny.filled(abstract(crops=2))
    crops = model.prepare(IMAGES)
    parts = jitted(model, lambda model, x: model.features(x, ("fc_score", "fc_weight")) | {"": model.network(x)})(crops)
    weight = np.asarray(parts["fc_weight"])
    above, below = (np.maximum(parts["fc_score"], 0) * weight).sum((1, 2)), weight.sum((1, 2))
    np.testing.assert_allclose(parts[""], above / below, rtol=1e-5)
    means = jitted(model, lambda model, x: model(x))(IMAGES)
    np.testing.assert_allclose(means, (above / below).reshape(2, 2).mean(1), rtol=1e-4)
    assert np.ptp(parts[""]) > 1e-4
    monkeypatch.setattr(model, "prepare", lambda images, key: crops)
    model.protocol = "pyiqa"
    joint = above.reshape(2, 2).sum(1) / below.reshape(2, 2).sum(1)
    np.testing.assert_allclose(jitted(model, lambda model, x: model(x))(IMAGES), joint, rtol=1e-4)


@pytest.mark.slow
def test_a_hardened_model_scores_through_its_block():
    model = tiny.filled(abstract())
    crops = model.prepare(IMAGES)[:1]
    names = ("block2", "vit", "robust_block", "fc_score")
    harden(model, "after:vit", mid=4, rngs=nnx.Rngs(1))
    assert model.backbone.order[:3] == ("vit", "robust_block", "tablock1.0")
    found = jitted(model, lambda model, x: model.features(x, names) | {"": model.network(x)})(crops)
    assert [found[name].shape for name in names] == [(1, 785, 24), (1, 28, 28, 96), (1, 28, 28, 96), (1, 28, 28)]
    assert np.isfinite(found[""]).all()


@pytest.mark.slow
def test_a_block_before_the_vit_changes_its_features():
    model, x = tiny.filled(abstract()), IMAGES[:1, :224, :224]

    def read(model, x):
        return model.features(x, ["patch_embed"])["patch_embed"]

    before = jitted(model, read)(x)
    harden(model, "before:vit", "bottleneck", mid=3, rngs=nnx.Rngs(1))
    after = jitted(model, read)(x)
    assert before.shape == after.shape == (1, 784, 24)
    assert not np.allclose(before, after)


@pytest.mark.slow
def test_errors_name_the_bad_argument():
    with pytest.raises(ValueError, match="protocol='pyqa' is not allowed; choose from 'official', 'resize', 'pyiqa'"):
        MANIQA(protocol="pyqa", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="width=100 is not allowed; it must be a multiple of 24"):
        MANIQA(width=100, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="crops=0 is outside"):
        MANIQA(crops=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="images is 223x300; both sides must be at least 224 pixels"):
        abstract().prepare(jnp.zeros((1, 223, 300, 3)))
    with pytest.raises(ValueError, match="pixels is 224x225; this network takes crops of 224x224"):
        abstract().network(jnp.zeros((1, 224, 225, 3)))
    with pytest.raises(ValueError, match="stage 'block10' does not exist"):
        abstract().features(jnp.zeros((1, 224, 224, 3)), ["block10"])


@pytest.mark.slow
def test_a_few_crops_at_a_time_give_the_same_scores_and_gradients_in_less_memory(monkeypatch):
    model = tiny.filled(abstract(crops=6))
    with jax.enable_x64(True):  # these random weights amplify rounding a thousand times
        graphdef, state = nnx.split(model)
        state, images = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (state, IMAGES[:1]))
        results = {}
        for at_once in (6, 4):  # 4 do not divide 6 crops, 3 do
            monkeypatch.setattr("jaxiqa.models.maniqa.AT_ONCE", at_once)

            def score(state, x):
                return nnx.merge(graphdef, state)(x).sum()

            run = jax.jit(jax.value_and_grad(score, argnums=(0, 1))).lower(state, images).compile()
            results[at_once] = run(state, images), run.memory_analysis().temp_size_in_bytes
    (expected, whole), (found, part) = results.values()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9), found, expected)
    assert part < 0.7 * whole
