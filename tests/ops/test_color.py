"""Colour conversions against recorded numbers of a standard implementation, and gradients against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.color import lab_to_rgb, rgb_to_lab


def grid(count: int = 6) -> jnp.ndarray:
    """Return all corners, edges and greys of the RGB cube, and values around the thresholds of the curves."""
    levels = jnp.concatenate([jnp.linspace(0, 1, count), jnp.array([0.04045, 0.0031308, 0.04, 0.0405, 1e-4])])
    return jnp.stack(jnp.meshgrid(levels, levels, levels), -1).reshape(-1, 3)


def test_colors_are_the_recorded_ones(shared):
    stored = np.load(shared / "oracles" / "public" / "05_cadv_colornet.npz")

    def planes(name):
        return stored[name][0].transpose(1, 2, 0)

    lab = rgb_to_lab(jnp.asarray(stored["input"] / np.float32(255)))
    scaled = jnp.concatenate([(lab[..., :1] - 50) / 100, lab[..., 1:] / 110], -1)
    np.testing.assert_allclose(scaled, planes("rgb2lab"), atol=5e-6)
    np.testing.assert_allclose(lab_to_rgb(lab), planes("roundtrip_rgb"), atol=1e-5)
    random = jnp.concatenate([50 + 100 * planes("L"), 110 * planes("ab_random")], -1)
    expected = planes("lab2rgb_random_unclamped")
    assert expected.max() > 1
    np.testing.assert_allclose(lab_to_rgb(random), expected, rtol=2e-5, atol=1e-5)


def test_colors_convert_back():
    colors = grid()
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(colors)), colors, atol=5e-4)
    assert float(rgb_to_lab(jnp.ones(3))[0]) == 100.0


@pytest.mark.slow
def test_gradients_are_finite_everywhere_and_correct_inside():
    colors = grid()
    wild = jnp.array([[0.0, 0, 0], [100, 0, 0], [0, 120, -120], [100, -120, 120], [-20, 5, 5], [130, 0, 200]])
    for function, points in ((rgb_to_lab, colors), (lab_to_rgb, rgb_to_lab(colors)), (lab_to_rgb, wild)):
        assert np.isfinite(jax.vmap(jax.jacobian(function))(points)).all()
    inside = jax.random.uniform(jax.random.key(0), (50, 3), minval=0.1, maxval=0.9)
    for function, points, step in ((rgb_to_lab, inside, 1e-6), (lab_to_rgb, rgb_to_lab(inside), 1e-5)):
        with jax.enable_x64(True):
            points = jnp.asarray(np.asarray(points), jnp.float64)
            found = jax.vmap(jax.jacobian(function))(points)
            for axis in range(3):
                shift = step * np.eye(3)[axis]
                difference = (function(points + shift) - function(points - shift)) / (2 * step)
                np.testing.assert_allclose(found[:, :, axis], difference, rtol=1e-5, atol=1e-6)
