import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import MODELS, harden
from jaxiqa.models.fpr import FPR, RULES, cut, gru
from jaxiqa.pretrained import key_map

TAPS = ["sfl1", "sfl21", "sfl22", "sfl23", "sfl3", "scl1", "scl2", "opinions", "gru", "weights"]


@pytest.fixture
def model():
    return tiny.filled(nnx.eval_shape(lambda: FPR(width=4, rngs=nnx.Rngs(0))))


def coded(h: int, w: int) -> jax.Array:
    """An image whose pixels in patch (row, column) all hold 100 · row + column."""
    row, column = np.mgrid[:h, :w] // 64
    return jnp.asarray(100 * row + column, jnp.float32)[None, :, :, None]


def grid(patches: jax.Array) -> list[list[int]]:
    values = np.asarray(patches)
    assert (values == values[:, :1, :1]).all()
    return [list(divmod(int(value), 100)) for value in values[:, 0, 0, 0]]


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    published = MODELS["fpr"]
    raw = replace(published, construct=partial(published.build, larger_is_worse=False))
    parity.check(shared, "fpr", raw, TAPS)


def test_patches_come_in_the_official_order(shared):
    record, _ = parity.read(shared, "fpr")
    for name, expected in record["protocol"]["first_12_patches"].items():
        h, w = (int(side[1:]) for side in name.split("_"))
        patches = cut(coded(h, w))[0]
        assert len(patches) == expected["n_patches"]
        assert grid(patches[:12]) == expected["grid_row_col_in_order"]


@pytest.mark.slow
def test_incomplete_patches_are_dropped(model):
    image = coded(150, 270)
    strip = model.prepare(image)
    assert strip.shape == (1, 8 * 64, 64, 1)
    order = [[row, column] for column in range(4) for row in range(2)]
    assert grid(cut(image)[0]) == grid(strip[0].reshape(8, 64, 64, 1)) == order


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, 0])
def test_at_most_1024_patches_are_taken(model, key):
    image = coded(33 * 64, 32 * 64)  # 1056 patches
    strip = model.prepare(image, None if key is None else jax.random.key(key))
    kept = [column * 33 + row for row, column in grid(strip[0].reshape(-1, 64, 64, 1))]
    assert len(set(kept)) == 1024
    if key is None:
        assert kept == [i * 1056 // 1024 for i in range(1024)]
    else:
        assert kept != sorted(kept)


@pytest.mark.slow
def test_a_key_shuffles_the_patches(model):
    x = jax.random.uniform(jax.random.key(0), (2, 128, 192, 3))
    prepared = [np.asarray(model.prepare(x, jax.random.key(seed))) for seed in (1, 1, 2)]
    assert np.array_equal(prepared[0], prepared[1])
    assert not np.array_equal(prepared[0], prepared[2])
    assert np.array_equal(np.sort(prepared[0].ravel()), np.sort(np.asarray(x).ravel()))
    scores = [model(x), model(x, jax.random.key(1))]
    assert not np.allclose(*scores, atol=1e-5)  # the order counts


@pytest.mark.slow
def test_a_batch_equals_its_images_with_and_without_prepare(model):
    x = jax.random.uniform(jax.random.key(0), (2, 130, 200, 3))
    scores = model(x)
    np.testing.assert_allclose(jnp.concatenate([model(x[:1]), model(x[1:])]), scores, rtol=1e-6)
    np.testing.assert_allclose(model.network(x), scores, rtol=1e-6)


@pytest.mark.slow
def test_the_score_is_negated_once(model):
    x = jax.random.uniform(jax.random.key(0), (2, 64, 128, 3))
    score = model(x)
    model.larger_is_worse = False
    np.testing.assert_allclose(100 - score, model(x), atol=1e-4)


@pytest.mark.slow
def test_the_score_is_the_weighted_mean_of_the_patch_scores(model):
    x = jax.random.uniform(jax.random.key(0), (2, 128, 128, 3))
    features = model.features(x, ("opinions", "weights"))
    weights = np.maximum(features["weights"][..., 0], 0) + 1e-8
    expected = [np.average(o, weights=w) for o, w in zip(features["opinions"].reshape(2, 4), weights, strict=True)]
    np.testing.assert_allclose(100 - model(x), expected, atol=2e-5)


def test_gru_against_numpy():
    generator = np.random.default_rng(0)
    shapes = ((2, 3, 12), (4, 12), (12,))
    inputs, kernel, bias = (jnp.asarray(generator.standard_normal(shape), jnp.float32) for shape in shapes)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    state, expected = np.zeros((2, 4)), []
    for t in range(3):
        recurrent = state @ kernel + bias
        reset = sigmoid(inputs[:, t, :4] + recurrent[:, :4])
        update = sigmoid(inputs[:, t, 4:8] + recurrent[:, 4:8])
        new = np.tanh(inputs[:, t, 8:] + reset * recurrent[:, 8:])
        state = (1 - update) * new + update * state
        expected.append(state)
    np.testing.assert_allclose(gru(*map(jnp.asarray, (inputs, kernel, bias))), np.stack(expected, 1), atol=1e-6)


def test_only_the_no_reference_path_is_kept(shared):
    record, _ = parity.read(shared, "fpr")
    model = nnx.eval_shape(lambda: FPR(rngs=nnx.Rngs(0)))
    kept = sum(variable.size for variable in key_map.parameters(model).values())
    unused = [pattern for pattern, target, _ in RULES if target is None]
    dropped = {key: np.prod(s) for key, s, _ in record["keys"] if any(re.fullmatch(p, key) for p in unused)}
    assert kept + sum(dropped.values()) == 16_576_388
    assert not any(key.startswith("s") for key in dropped)


def test_images_without_a_patch_are_refused(model):
    with pytest.raises(ValueError, match="images is 63x200; both sides must be at least 64 pixels"):
        model(jnp.zeros((1, 63, 200, 3)))


@pytest.mark.slow
def test_can_be_hardened(model):
    x = jax.random.uniform(jax.random.key(0), (1, 64, 128, 3))
    before = model(x)
    harden(model, "after:sfl3", mid=4, rngs=nnx.Rngs(1))
    harden(model, "after:scl2", "bottleneck", mid=2, rngs=nnx.Rngs(2))
    assert model.features(x, ("scl2", "gru"))["scl2"].shape == (2, 2, 2, 2)
    assert not np.allclose(model(x), before, atol=1e-3)
