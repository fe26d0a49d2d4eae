import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.nn.kernels.depthwise import grouped_convolution, shifted_products


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 1), (1, 0)), ((0, 0), (0, 0))])
@pytest.mark.parametrize("size", [(7, 10), pytest.param((8, 5), marks=pytest.mark.slow)])
def test_both_algorithms_agree_in_values_and_gradients(stride, padding, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 6))

    def both(method):
        value, pullback = jax.vjp(lambda x, k: method(x, k, stride, padding), x, kernel)
        return value, *pullback(jnp.cos(value))

    for ours, theirs in zip(both(shifted_products), both(grouped_convolution), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
