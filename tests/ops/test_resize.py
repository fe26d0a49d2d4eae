import jax
import numpy as np
import pytest
from PIL import Image

from jaxiqa.core.bilinear import bilinear_weights
from jaxiqa.ops.resize import resize_bilinear

IMAGES = jax.random.uniform(jax.random.key(0), (2, 13, 22, 3))


@pytest.mark.parametrize("size", [(5, 9), (13, 22), (40, 31), (1, 1)])
def test_antialiased_resizing_equals_pillows(size):
    planes = np.asarray(IMAGES).transpose(0, 3, 1, 2).reshape(-1, 13, 22)
    expected = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes]
    expected = np.stack(expected).reshape(2, 3, *size).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(resize_bilinear(IMAGES, size), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(5, 9), (40, 31)])
def test_resizing_without_antialiasing_reads_the_two_nearest_pixels(size):
    rows, columns = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(size, (13, 22), strict=True))
    whole = np.asarray(IMAGES, np.float64)
    tall = np.apply_along_axis(lambda x: np.interp(rows, np.arange(13), x), 1, whole)
    expected = np.apply_along_axis(lambda x: np.interp(columns, np.arange(22), x), 2, tall)
    np.testing.assert_allclose(resize_bilinear(IMAGES, size, antialias=False), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(5, 9), (40, 31)])
def test_the_derivatives_are_those_of_the_matrices(size, antialias):
    rows, columns = (bilinear_weights(side, n, antialias) for n, side in zip(size, (13, 22), strict=True))
    resize = lambda x: resize_bilinear(x, size, antialias=antialias)  # noqa: E731
    weights = jax.random.normal(jax.random.key(1), (2, *size, 3))
    gradient = jax.grad(lambda x: (resize(x) * weights).sum())(IMAGES)
    np.testing.assert_allclose(gradient, np.einsum("ih,jw,bijc->bhwc", rows, columns, weights), atol=1e-5)
    np.testing.assert_allclose(jax.vmap(resize)(IMAGES[:, None])[:, 0], resize(IMAGES), atol=1e-6)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7, 100, 3), (1, 6, 9, 5)])  # many blocks of columns; more channels than few
@pytest.mark.parametrize("size", [(3, 9), (8, 130)])
def test_wide_images_and_many_channels_are_multiplied_by_the_same_matrices(shape, size, antialias):
    images = np.random.default_rng(0).random(shape, np.float32)
    rows, columns = (bilinear_weights(side, n, antialias) for n, side in zip(size, shape[1:3], strict=True))
    found, pull = jax.vjp(lambda x: resize_bilinear(x, size, antialias=antialias), images)
    np.testing.assert_allclose(found, np.einsum("ih,jw,bhwc->bijc", rows, columns, images), atol=1e-6)
    back = np.einsum("ih,jw,bijc->bhwc", rows, columns, found)
    np.testing.assert_allclose(pull(found)[0], back, rtol=1e-5, atol=1e-5)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="size=0 is outside"):
        resize_bilinear(IMAGES, (0, 4))
