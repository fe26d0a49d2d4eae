import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.layers import average_pool, average_pool_constant, coverage, depth_to_space, l2_pool, space_to_depth
from jaxiqa.layers.pooling import square_pool, square_pool_constant


@pytest.mark.parametrize(("size", "window", "stride"), [((6, 8), 2, 2), ((7, 9), 3, 3), ((7, 6), 3, 1), ((8, 9), 3, 2)])
def test_the_average_pools_constant_is_its_largest_singular_value(size, window, stride):
    basis = jnp.eye(size[0] * size[1]).reshape(-1, *size, 1)
    matrix = np.asarray(average_pool(basis, window, stride)).reshape(len(basis), -1)
    assert average_pool_constant(size, window, stride) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)


def worst_slope(function, size, tries=200):
    """Return the largest ratio of distances found by steps along the gradient."""
    x = jax.random.normal(jax.random.key(0), (1, *size, 1))
    jacobian = jax.jit(jax.jacobian(lambda x: function(x).ravel()))
    best = 0.0
    for number in range(tries):
        peak = x.at[0, number % size[0], number // size[0] % size[1], 0].set(50.0)
        matrix = np.asarray(jacobian(peak)).reshape(-1, x.size)
        best = max(best, float(np.linalg.norm(matrix, 2)))
    return best


@pytest.mark.parametrize("size", [(4, 6), (6, 4), (5, 5)])
def test_the_square_pools_constant_is_attained(size):
    assert worst_slope(square_pool, size, 30) == pytest.approx(square_pool_constant(size), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 1)])
def test_the_l2_pools_constant_is_attained_and_its_gradient_at_zero_is_zero(window, stride):
    size = (6, 6)
    x = jnp.zeros((1, *size, 1)).at[0, 2, 3, 0].set(1.0)
    jacobian = np.asarray(jax.jacobian(lambda x: l2_pool(x, window, stride).ravel())(x)).reshape(-1, 36)
    constant = np.sqrt(coverage(size, (window, window), (stride, stride)))
    assert np.linalg.norm(jacobian, 2) == pytest.approx(constant, rel=1e-5)
    assert worst_slope(lambda x: l2_pool(x, window, stride), size, 36) <= constant + 1e-5
    assert not np.asarray(jax.grad(lambda x: l2_pool(x, 2).sum())(jnp.zeros((1, 4, 4, 1)))).any()


def test_invertible_down_sampling_permutes_the_values():
    x = jax.random.normal(jax.random.key(0), (2, 6, 9, 4))
    y = space_to_depth(x, 3)
    assert y.shape == (2, 2, 3, 36)
    np.testing.assert_array_equal(np.sort(y, axis=None), np.sort(x, axis=None))
    np.testing.assert_array_equal(depth_to_space(y, 3), x)
    np.testing.assert_array_equal(y[0, 1, 2].reshape(3, 3, 4), x[0, 3:6, 6:9])
    with pytest.raises(ValueError, match="6x9"):
        space_to_depth(x, 2)
    with pytest.raises(ValueError, match="4 channels"):
        depth_to_space(x, 3)
