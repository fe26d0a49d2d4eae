"""Half precision, float64 and the derivatives of every public function in `jaxiqa.ops`."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from derivatives import HALVES, check_derivatives, check_float64, check_half
from op_cases import IMAGES, NO_ARRAYS, OPS, PAIR
from quick import every

import jaxiqa.ops
from jaxiqa.ops.cubic import cubic_weights, resize_cubic
from jaxiqa.ops.filters import gaussian_blur, median_blur
from jaxiqa.ops.jpeg import quantization_tables
from jaxiqa.ops.resize import bilinear_weights, resize_bilinear
from jaxiqa.ops.ssim import psnr, ssim

SLOW = pytest.mark.slow


def test_every_public_function_is_among_the_cases():
    modules = [
        importlib.import_module(f"jaxiqa.ops.{found.name}") for found in pkgutil.iter_modules(jaxiqa.ops.__path__)
    ]
    public = {
        name
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    assert public == set(OPS) | NO_ARRAYS


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", every(4, sorted(set(OPS) - {"quantization_tables"})))
def test_half_precision_is_float32_rounded_once(name, dtype):
    check_half(*OPS[name], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, OPS))
def test_float64_is_never_narrowed(name):
    check_float64(*OPS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OPS)
def test_forward_mode_and_second_order(name):
    check_derivatives(*OPS[name], squared=name != "jpeg")


def test_jpeg_tables_are_at_least_float32_for_any_type_of_quality():
    assert quantization_tables(50).dtype == quantization_tables(jnp.float16(50)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert quantization_tables(jnp.float64(50)).dtype == jnp.float64


def _blur(x, size, sigma):
    weights = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    for axis in (1, 2):
        x = scipy.ndimage.correlate1d(x, weights / weights.sum(), axis, mode="mirror")
    return x


def _ssim(a, b):
    def blur(x):
        return _blur(x, 11, 1.5)[:, 5:-5, 5:-5]

    mean_a, mean_b = blur(a), blur(b)
    va, vb, vab = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    values = (2 * mean_a * mean_b + 1e-4) * (2 * vab + 9e-4) / ((mean_a**2 + mean_b**2 + 1e-4) * (va + vb + 9e-4))
    return values.mean((1, 2, 3))


def _resized(weights, x, *options):
    return np.einsum("ih,jw,bhwc->bijc", weights(11, 7, *options), weights(8, 13, *options), x)


ORACLES = {
    "median": (lambda x: median_blur(x, 5), lambda x: scipy.ndimage.median_filter(x, (1, 5, 5, 1), mode="mirror")),
    "gaussian": (lambda x: gaussian_blur(x, 5, 0.83), lambda x: _blur(x, 5, 0.83)),
    "cubic": (lambda x: resize_cubic(x, (7, 13)), lambda x: np.clip(_resized(cubic_weights, x), 0, 1)),
    "bilinear": (lambda x: resize_bilinear(x, (7, 13)), lambda x: _resized(bilinear_weights, x, True)),
}


@pytest.mark.parametrize("name", ORACLES)
def test_float64_is_accurate_to_its_rounding(name):
    ours, theirs = ORACLES[name]
    with jax.enable_x64(True):
        np.testing.assert_allclose(ours(jnp.asarray(IMAGES)), theirs(IMAGES), rtol=0, atol=1e-14)


@pytest.mark.parametrize("metric", [(ssim, _ssim), (psnr, lambda a, b: -10 * np.log10(((a - b) ** 2).mean((1, 2, 3))))])
def test_float64_similarities_are_exact(metric):
    with jax.enable_x64(True):
        np.testing.assert_allclose(metric[0](*map(jnp.asarray, PAIR)), metric[1](*PAIR), rtol=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_median_of_half_precision_is_scipys(dtype):
    images = np.asarray(jnp.asarray(IMAGES, dtype), np.float32)
    expected = scipy.ndimage.median_filter(images, (1, 3, 3, 1), mode="mirror")
    np.testing.assert_array_equal(np.asarray(median_blur(jnp.asarray(IMAGES, dtype), 3), np.float32), expected)
