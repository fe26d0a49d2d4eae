"""Poolings of whole maps against NumPy and SciPy, and their gradients where values are equal."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxiqa import lipschitz
from jaxiqa.config.training import Pooling
from jaxiqa.nn.global_pooling import OFFSET, POOLINGS, global_pool


def power(x: np.ndarray) -> np.ndarray:
    y = np.mean(np.sign(x) * (np.sqrt(np.abs(x) + OFFSET) - np.sqrt(OFFSET)), axis=0)
    return np.sign(y) * ((np.abs(y) + np.sqrt(OFFSET)) ** 2 - OFFSET)


ORACLES = {
    "mean": lambda x: x.mean(0),
    "median": lambda x: np.median(x, axis=0),
    "trimmed": lambda x: scipy.stats.trim_mean(x, 0.25, axis=0),
    "power": power,
}


def test_the_names_in_configs_are_those_of_the_table():
    assert get_args(Pooling) == tuple(POOLINGS) == tuple(ORACLES)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1), (1, 2), (3, 1)])
def test_every_pooling_is_that_of_numpy_or_scipy(name, size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)) * 3
    expected = [ORACLES[name](image.reshape(-1, 3)) for image in x]
    np.testing.assert_allclose(global_pool(name, jnp.asarray(x, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_constant_maps_give_their_value_and_finite_gradients_of_sum_one(name, value):
    x = jnp.full((2, 4, 5, 3), value)
    np.testing.assert_allclose(global_pool(name, x), np.full((2, 3), value), rtol=1e-5, atol=1e-6)
    gradient = np.asarray(jax.grad(lambda x: global_pool(name, x).sum())(x))
    np.testing.assert_allclose(gradient.sum((1, 2)), 1, rtol=1e-4)
    assert (gradient >= 0).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_are_those_of_finite_differences(name):
    x = np.random.default_rng(1).normal(size=(1, 3, 5, 2))
    gradient = np.asarray(jax.grad(lambda x: global_pool(name, x).sum())(jnp.asarray(x, jnp.float32)))
    step, pixels = 1e-6, x.reshape(-1, 2)
    for place in np.ndindex(pixels.shape):
        moved = [pixels.copy(), pixels.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (ORACLES[name](moved[0]) - ORACLES[name](moved[1])).sum() / (2 * step)
        assert gradient.reshape(-1, 2)[place] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("name", ["median", "trimmed", "power"])
def test_an_outlier_moves_a_robust_pooling_less_than_the_mean(name):
    x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
    attacked = x.at[0, 2, 3, 0].set(100.0)
    moved = {key: float(jnp.abs(global_pool(key, attacked) - global_pool(key, x)).max()) for key in ("mean", name)}
    assert moved[name] < 0.5 * moved["mean"]


def test_the_power_pooling_lies_between_the_power_mean_and_the_mean():
    x = jax.random.uniform(jax.random.key(0), (1, 6, 6, 1))
    half = lambda x: float(jnp.mean(jnp.sqrt(x)) ** 2)  # noqa: E731
    for scale in (1.0, 1e-4, 1e5):
        assert half(x * scale) < float(global_pool("power", x * scale).item()) < float(jnp.mean(x * scale))
    assert global_pool("power", x * 1e5).item() == pytest.approx(half(x * 1e5), rel=0.01)
    assert global_pool("power", x * 1e-4).item() == pytest.approx(float(jnp.mean(x * 1e-4)), rel=0.01)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed"])
def test_lipschitz_bounds_of_poolings_hold_and_half_precision_is_kept(name):
    bound = lipschitz.report(lambda x: global_pool(name, x), (4, 5, 3)).bound
    jacobian = jax.jacobian(lambda x: global_pool(name, x).ravel())(jax.random.normal(jax.random.key(0), (1, 4, 5, 3)))
    assert np.linalg.norm(np.asarray(jacobian).reshape(3, -1), 2) <= bound * (1 + 1e-6)
    assert bound <= 1 + 1e-6
    assert global_pool(name, jnp.ones((1, 2, 2, 1), jnp.bfloat16)).dtype == jnp.bfloat16
