import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.layers import group_sort, householder, max_min

X = jax.random.normal(jax.random.key(0), (3, 5, 4, 6))
ANGLES = jnp.array([0.3, 2.0, -1.0])
ACTIVATIONS = {
    "max_min": max_min,
    "group_sort 3": lambda x: group_sort(x, 3),
    "group_sort all": lambda x: group_sort(x, 6),
    "householder": lambda x: householder(x, ANGLES),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_jacobian_is_orthogonal(name):
    jacobians = jax.vmap(jax.jacobian(ACTIVATIONS[name]))(X.reshape(-1, 6))
    np.testing.assert_allclose(np.linalg.svd(jacobians, compute_uv=False), 1, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(ACTIVATIONS[name](X)), jnp.linalg.norm(X), rtol=1e-6)


def test_group_sort_of_pairs_is_max_min_and_of_all_is_a_sort():
    np.testing.assert_array_equal(group_sort(X), max_min(X))
    np.testing.assert_array_equal(group_sort(X, 6), np.sort(X, axis=-1))


def test_householder_is_continuous_at_the_reflecting_line():
    along = jnp.array([jnp.cos(0.15), jnp.sin(0.15)])  # v·z = 0 for θ = 0.3
    across = jnp.array([jnp.sin(0.15), -jnp.cos(0.15)])
    for side in (1e-4, -1e-4):
        np.testing.assert_allclose(householder(along + side * across, ANGLES[:1]), along, atol=2e-4)


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="pairs"):
        max_min(X[..., :5])
    with pytest.raises(ValueError, match="size=4"):
        group_sort(X, 4)
    with pytest.raises(ValueError, match="take 6"):
        householder(X[..., :4], ANGLES)
