import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxiqa.ops.filters import gaussian_blur, gaussian_weights, median_blur, separable_filter

IMAGES = jax.random.uniform(jax.random.key(0), (2, 7, 12, 3))


@pytest.mark.parametrize("size", [1, 3, 11])
def test_the_median_is_scipys(size):
    images = IMAGES.at[0, 2:5].set(0.5).at[1, :, 3].set(-0.0).at[1, 0].set(1.0)  # ties, both zeros, and the top
    expected = ndimage.median_filter(np.asarray(images), size=(1, size, size, 1), mode="mirror")
    np.testing.assert_array_equal(median_blur(images, size), expected)


def test_the_median_is_exact_in_double_precision_too():
    with jax.enable_x64(True):
        images = np.random.default_rng(0).random((1, 6, 5, 3))
        expected = ndimage.median_filter(images, size=(1, 5, 5, 1), mode="mirror")
        np.testing.assert_array_equal(median_blur(jnp.asarray(images), 5), expected)


@pytest.mark.slow
def test_the_gradient_of_a_median_goes_to_the_pixels_that_hold_it():
    image = jnp.array([[0.1, 0.9, 0.2], [0.3, 0.5, 0.4], [0.5, 0.7, 0.6]])[None, ..., None]
    gradient = jax.grad(lambda x: median_blur(x, 3)[0, 1, 1, 0])(image)[0, ..., 0]
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [0, 0.5, 0], [0.5, 0, 0]])
    distinct = jax.random.permutation(jax.random.key(1), jnp.arange(7 * 12 * 3) / 300).reshape(1, 7, 12, 3)
    found = jax.grad(lambda x: (median_blur(x, 3) ** 2).sum())(distinct)
    value = np.asarray(median_blur(distinct, 3))
    held = [2 * pixel * (value[..., channel] == pixel).sum() for channel in range(3) for pixel in
            np.asarray(distinct)[..., channel].ravel()]  # fmt: skip
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 0).ravel(), held, rtol=1e-6)


@pytest.mark.parametrize(("size", "sigma"), [(3, 0.8), (7, 1.4), (11, 2.0)])
def test_the_blur_is_scipys(size, sigma):
    truncate = (size // 2) / sigma  # in standard deviations
    expected = ndimage.gaussian_filter(
        np.asarray(IMAGES, np.float64), (0, sigma, sigma, 0), mode="mirror", truncate=truncate
    )
    np.testing.assert_allclose(gaussian_blur(IMAGES, size, sigma), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 41), (3, 50), (1, 1)])
@pytest.mark.parametrize(("border", "mode"), [("symmetric", "reflect"), ("reflect", "mirror"), ("valid", "mirror")])
def test_a_filter_is_scipys_at_every_border(shape, border, mode):
    images = jax.random.normal(jax.random.key(0), (2, *shape, 2))
    weights = gaussian_weights(25, 3.0) if border == "symmetric" else [0.2, -0.5, 0.9]
    least = {"symmetric": 1, "reflect": 2, "valid": 3}[border]
    if min(shape) < least:
        with pytest.raises(ValueError, match=f"at least {least} pixels"):
            separable_filter(images, weights, border)
        return
    expected = np.asarray(images, np.float64)
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, weights, axis, mode=mode) / 2
    expected = expected[:, 1:-1, 1:-1] if border == "valid" else expected
    found = jax.jit(lambda x: separable_filter(x, weights, border, divisor=2.0))(images)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_other_borders_and_even_windows_are_refused():
    with pytest.raises(ValueError, match="border='zero' is not allowed"):
        separable_filter(IMAGES, [1.0], "zero")
    with pytest.raises(ValueError, match="odd integer"):
        separable_filter(IMAGES, [0.5, 0.5])


@pytest.mark.parametrize("filtered", [lambda x: gaussian_blur(x, 11, 1.0), lambda x: median_blur(x, 11)])
def test_windows_larger_than_the_image_are_refused(filtered):
    with pytest.raises(ValueError, match="at least 6 pixels"):
        filtered(jnp.zeros((1, 5, 9, 3)))
    assert filtered(jnp.zeros((1, 6, 9, 3))).shape == (1, 6, 9, 3)


@pytest.mark.parametrize("size", [0, 2])
def test_windows_have_an_odd_side(size):
    with pytest.raises(ValueError, match="odd integer"):
        median_blur(IMAGES, size)
