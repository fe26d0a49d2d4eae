import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.geometry import rotate


@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1])
def test_quarter_turns_of_a_square_are_exact(turns):
    images = jax.random.uniform(jax.random.key(0), (2, 9, 9, 3))
    np.testing.assert_array_equal(rotate(images, 90.0 * turns), jnp.rot90(images, turns, (1, 2)))


def test_a_half_turn_reverses_any_image_and_a_quarter_turn_keeps_the_middle():
    images = jax.random.uniform(jax.random.key(0), (1, 6, 10, 3))
    np.testing.assert_array_equal(rotate(images, 180.0), images[:, ::-1, ::-1])
    turned = rotate(images, 90.0)
    np.testing.assert_array_equal(turned[:, :, 2:8], jnp.rot90(images[:, :, 2:8], 1, (1, 2)))
    np.testing.assert_array_equal(turned[:, :, :2], 0)


def test_the_gradient_is_rotated_back():
    images = jax.random.uniform(jax.random.key(0), (1, 7, 8, 3))
    weights = jax.random.normal(jax.random.key(1), images.shape)
    gradient = jax.grad(lambda x: (rotate(x, 23.0) * weights).sum())(images)
    np.testing.assert_allclose((gradient * images).sum(), (rotate(images, 23.0) * weights).sum(), rtol=1e-4)
