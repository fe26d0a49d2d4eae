"""The low-pass filter and the shrinkage of Fourier coefficients: against dense matrices and NumPy's transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import layers, lipschitz
from jaxiqa.layers.low_pass import band_window, low_pass
from jaxiqa.layers.shrinkage import Shrinkage, inverse_softplus, shrink_frequencies

SIZES = [(5, 4), (4, 7), (1, 6), (3, 1)]


def axis_factors(side: int, share: float, edge: float) -> np.ndarray:
    """Return the factor of every full-spectrum frequency of an axis, written out."""
    factors = []
    for frequency in np.abs(np.fft.fftfreq(side)):
        t = frequency / (0.5 * share)
        if t <= 1 - edge + 1e-12:
            factors.append(1.0)
        else:
            factors.append(0.0 if t > 1 else (1 + np.cos(np.pi * (t - 1 + edge) / edge)) / 2)
    return np.array(factors)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("share", "edge"), [(0.5, 0.5), (0.7, 0.0), (1.0, 1.0)])
def test_low_pass_multiplies_the_full_spectrum(size, share, edge):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    window = np.outer(axis_factors(size[0], share, edge), axis_factors(size[1], share, edge))
    expected = np.fft.ifft2(np.fft.fft2(x, axes=(1, 2)) * window[..., None], axes=(1, 2)).real
    np.testing.assert_allclose(low_pass(jnp.asarray(x, jnp.float32), share, edge), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_dense_matrix_of_low_pass_has_norm_one(size):
    def flat(x):
        return low_pass(x.reshape(1, *size, 1), 0.5).ravel()

    matrix = np.asarray(jax.jacobian(flat)(jnp.zeros(size[0] * size[1])), np.float64)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.max() == pytest.approx(1, abs=1e-6)
    expected = np.outer(axis_factors(size[0], 0.5, 0.5), axis_factors(size[1], 0.5, 0.5)).ravel()
    np.testing.assert_allclose(values, np.sort(expected)[::-1], atol=1e-6)
    assert lipschitz.report(lambda x: low_pass(x, 0.5), (*size, 3)).bound == pytest.approx(1, abs=1e-6)


def test_a_sharp_window_is_the_mask_of_the_robust_block_and_a_smooth_one_overshoots_less():
    for size in ((10, 10), (7, 9)):
        np.testing.assert_array_equal(band_window(size, 0.6, 0.0), layers.fourier.low_pass_mask(size, 0.6))
    step = jnp.where(jnp.arange(256) < 128, 0.0, 1.0).reshape(1, 1, 256, 1)
    over = [float(low_pass(step, 0.5, edge).max()) - 1 for edge in (0.0, 0.5, 1.0)]
    assert over[0] > 0.05
    assert over[2] < 0.01 < over[1] < 0.09
    far = [float(jnp.abs(low_pass(step, 0.5, edge)[0, 0, 180:200, 0] - 1).max()) for edge in (0.0, 0.5)]
    assert far[1] < far[0] / 3  # the ringing fades sooner


def test_low_pass_keeps_constants_and_half_precision():
    x = jnp.full((1, 5, 6, 2), 0.75, jnp.bfloat16)
    y = layers.LowPass(0.3)(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share=0\.0 is outside \(0"),
        ({"share": 1.5}, "share=1.5"),
        ({"share": 0.5, "edge": 2.0}, "edge"),
    ],
)
def test_a_band_outside_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        layers.LowPass(**options)
    with pytest.raises(ValueError, match=message):
        low_pass(jnp.zeros((1, 2, 2, 1)), **options)


@pytest.mark.parametrize("size", SIZES)
def test_shrinkage_is_the_soft_threshold_of_numpys_spectrum(size):
    generator = np.random.default_rng(1)
    x, threshold = generator.normal(size=(2, *size, 3)), np.array([0.0, 0.5, 1.5])
    z = np.fft.fft2(x, axes=(1, 2), norm="ortho")
    z = z * np.maximum(0, 1 - threshold / np.maximum(np.abs(z), 1e-12))
    expected = np.fft.ifft2(z, axes=(1, 2), norm="ortho").real
    found = shrink_frequencies(jnp.asarray(x, jnp.float32), jnp.asarray(threshold, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shrink", [0.05, 3.0])
def test_shrinkage_is_one_lipschitz_between_random_pairs(shrink):
    layer = Shrinkage(3, shrink)
    assert lipschitz.report(layer, (5, 6, 3)).bound == pytest.approx(1, abs=1e-6)
    for seed in range(20):
        x, y = (jax.random.normal(jax.random.key(seed + offset), (1, 5, 6, 3)) for offset in (0, 100))
        for other in (y, x + 0.01 * y):
            assert float(jnp.linalg.norm(layer(x) - layer(other)) / jnp.linalg.norm(x - other)) <= 1 + 1e-5


def test_thresholds_start_at_shrink_are_trained_and_have_finite_gradients():
    layer = Shrinkage(3, 0.05)
    np.testing.assert_allclose(jax.nn.softplus(layer.threshold[...]), 0.05, rtol=1e-5)
    assert float(jax.nn.softplus(inverse_softplus(1e-4))) == pytest.approx(1e-4, rel=1e-2)
    graphdef, params = nnx.split(layer, nnx.Param)
    for x in (jnp.zeros((1, 4, 5, 3)), jax.random.normal(jax.random.key(0), (1, 4, 5, 3))):
        found = jax.grad(lambda p, x: (nnx.merge(graphdef, p)(x) ** 2).sum(), argnums=(0, 1))(params, x)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert (np.asarray(found[0]["threshold"][...]) < 0).all()  # a larger threshold leaves less
    for shrink in (0.0, -1.0):
        with pytest.raises(ValueError, match="shrink"):
            Shrinkage(3, shrink)
