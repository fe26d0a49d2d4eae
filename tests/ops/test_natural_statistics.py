"""Quadratic splines, local contrast and fits of generalised Gaussians, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.special
import scipy.stats

from jaxiqa.ops import spline
from jaxiqa.ops.contrast import local_contrast
from jaxiqa.ops.generalised_gaussian import fit_asymmetric, moment_ratio, shape_of_ratio, signed_moments

IMAGES = np.random.default_rng(0).uniform(size=(2, 23, 18, 3))


@pytest.mark.parametrize(("border", "mode"), [("mirror", "constant"), ("zero", "grid-constant")])
@pytest.mark.parametrize("size", [(12, 9), (11, 9), (23, 18), (30, 7), (1, 1)])
def test_splines_are_scipys(border, mode, size):
    points = [(np.arange(out) + 0.5) * side / out - 0.5 for side, out in zip(IMAGES.shape[1:3], size, strict=True)]
    points = [np.clip(p, 0, side - 1) if border == "mirror" else p for p, side in zip(points, (23, 18), strict=True)]
    grid = np.meshgrid(*points, indexing="ij")
    with jax.enable_x64(True):
        found = np.array(spline.resize_spline(jnp.asarray(IMAGES), size, border=border))
    inside = np.ones(size, bool)
    if border == "mirror" and size == (30, 7):  # scipy sets points outside the outermost pixels to 0
        inside[[0, -1]] = False
    for b in range(2):
        for c in range(3):
            expected = scipy.ndimage.map_coordinates(IMAGES[b, :, :, c], grid, order=2, mode=mode)
            np.testing.assert_allclose(found[b, :, :, c][inside], expected[inside], rtol=0, atol=1e-8)


def test_a_spline_passes_through_the_pixels_also_of_tiny_images():
    for side in (1, 2, 3):
        np.testing.assert_allclose(spline.spline_weights(side, side, "mirror"), np.eye(side), atol=1e-12)
    with pytest.raises(ValueError, match="border='edge' is not allowed"):
        spline.resize_spline(jnp.asarray(IMAGES), (3, 3), border="edge")


def test_contrast_is_that_of_a_convolution():
    offsets = np.arange(-2, 3)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 0.9**2))
    window /= window.sum()
    with jax.enable_x64(True):
        found = local_contrast(jnp.asarray(IMAGES), size=5, sigma=0.9, offset=0.1)
    for b in range(2):
        for c in range(3):
            x = IMAGES[b, :, :, c]
            mean = scipy.signal.convolve2d(x, window, "same")
            deviation = np.sqrt(scipy.signal.convolve2d(x**2, window, "same") - mean**2)
            np.testing.assert_allclose(found[b, :, :, c], (x - mean) / (deviation + 0.1), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1.0])
def test_flat_areas_have_no_contrast_of_either_sign(value):
    image = jnp.full((1, 20, 20, 1), value, jnp.float32)
    inner = jax.jit(local_contrast)(image)[0, 3:-3, 3:-3]
    assert (inner >= 0).all()
    assert inner.max() < 1e-12
    gradient = jax.jit(jax.grad(lambda x: local_contrast(x)[0, 10, 10, 0]))(image)
    assert gradient[0, 10, 10, 0] > 100  # not cut off by the choice of the sign
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_a_shape_is_the_exact_inverse_of_its_ratio():
    shapes = np.geomspace(0.06, 40, 50)
    with jax.enable_x64(True):
        ratios = moment_ratio(jnp.asarray(shapes))
        log = (
            2 * scipy.special.gammaln(2 / shapes)
            - scipy.special.gammaln(1 / shapes)
            - scipy.special.gammaln(3 / shapes)
        )
        np.testing.assert_allclose(ratios, np.exp(log), rtol=1e-12)
        np.testing.assert_allclose(shape_of_ratio(ratios), shapes, rtol=1e-9)
        slopes = jax.vmap(jax.grad(shape_of_ratio))(ratios) * jax.vmap(jax.grad(moment_ratio))(jnp.asarray(shapes))
        np.testing.assert_allclose(slopes, 1, rtol=1e-7)


@pytest.mark.slow
def test_ratios_that_no_shape_has_give_the_nearest():
    np.testing.assert_allclose(shape_of_ratio(jnp.array([0.0, 0.76, 1.0])), [0.05, 50, 50], rtol=1e-3)
    assert jax.vmap(jax.grad(shape_of_ratio))(jnp.array([0.0, 0.76, 1.0])).tolist() == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [0.6, 1.0, 2.5])
def test_a_fit_finds_the_parameters_of_its_samples(shape):
    """Two half-distributions of one shape: |x| / σ is generalised gamma; sides are chosen in proportion to σ."""
    random = np.random.default_rng(0)
    left, right = 0.5, 1.5
    scale = np.sqrt(scipy.special.gamma(1 / shape) / scipy.special.gamma(3 / shape))
    size = scale * scipy.stats.gengamma(1 / shape, shape).rvs(400_000, random_state=random)
    values = np.where(random.random(len(size)) < left / (left + right), -left * size, right * size)
    found = fit_asymmetric(signed_moments(jnp.asarray(values[None], jnp.float32)))[0]
    np.testing.assert_allclose(found, [shape, values.mean(), left**2, right**2], rtol=0.03)


@pytest.mark.slow
def test_samples_of_one_sign_or_zero_have_a_finite_fit_and_gradient():
    for values in (jnp.ones((1, 8)), -jnp.ones((1, 8)), jnp.zeros((1, 8))):
        fit, gradient = jax.value_and_grad(lambda x: fit_asymmetric(signed_moments(x)).sum())(values)
        assert np.isfinite(fit)
        assert np.isfinite(gradient).all()
