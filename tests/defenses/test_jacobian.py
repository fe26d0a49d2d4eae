"""The penalty on the slope of features, for maps whose value is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxiqa.defenses import jacobian_penalty

IMAGES = jax.random.uniform(jax.random.key(0), (4, 5, 7, 3))
KEYS = jax.random.split(jax.random.key(1), 4)
MATRIX = jax.random.normal(jax.random.key(2), (3, 6))


def linear(matrix, x):
    return x @ matrix


def by_hand(images, keys, matrix):
    """For a 1×1 linear map, sign(Jᵀ u) is sign(u Mᵀ) per pixel."""
    moved = energy = 0.0
    features = np.asarray(images @ matrix)
    centre = features.mean((0, 1, 2))
    for i, key in enumerate(keys):
        probe = np.asarray(jax.random.normal(key, features.shape[1:]))
        direction = np.sign(probe @ np.asarray(matrix).T)
        moved += ((direction @ np.asarray(matrix)) ** 2).sum()
        energy += ((features[i] - centre) ** 2).sum()
    return moved / energy / 2


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.01, 0.3])
@pytest.mark.parametrize("count", [1, 4])
def test_the_value_for_a_linear_map(step, count):
    images, keys = IMAGES[:count], KEYS[:count]
    found = jacobian_penalty(Partial(linear, MATRIX), images, keys, step=step, weight=3.0)
    assert float(found) == pytest.approx(3 * by_hand(images, keys, MATRIX), rel=1e-3)


@pytest.mark.slow
def test_scale_and_offset_of_features_do_not_matter():
    price = lambda a, b: jacobian_penalty(Partial(lambda a, b, x: a * jnp.tanh(x @ MATRIX) + b, a, b), IMAGES, KEYS)  # noqa: E731
    assert float(price(0.01, 5.0)) == pytest.approx(float(price(1.0, 0.0)), rel=1e-2)
    assert abs(float(jax.grad(price)(1.0, 0.0))) < 1e-3 * float(price(1.0, 0.0))


@pytest.mark.slow
def test_descent_makes_features_flatter_at_equal_variance():
    """A channel that reads fine detail becomes small beside one that reads the mean."""

    def features(weights, x):
        fine = (x[:, 1:] - x[:, :-1]).sum(-1, keepdims=True)
        coarse = jnp.broadcast_to(x.mean((1, 2, 3), keepdims=True), fine.shape)
        return weights * jnp.concatenate([fine, coarse], -1)

    price = lambda weights: jacobian_penalty(Partial(features, weights), IMAGES, KEYS)  # noqa: E731
    slope = jax.grad(price)(jnp.ones(2))
    assert slope[0] > 0 > slope[1]


@pytest.mark.slow
def test_devices_together_give_the_value_of_one():
    whole = jacobian_penalty(Partial(linear, MATRIX), IMAGES, KEYS)
    parts = jax.vmap(
        lambda x, k: jacobian_penalty(
            Partial(linear, MATRIX), x, k, gather=lambda v: jax.lax.all_gather(v, "d", tiled=True)
        ),
        axis_name="d",
    )(IMAGES.reshape(2, 2, 5, 7, 3), KEYS.reshape(2, 2))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("options", [{"step": 0.0}, {"weight": -1.0}])
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        jacobian_penalty(Partial(linear, MATRIX), IMAGES, KEYS, **options)
