"""Shrinkage of Fourier coefficients: NumPy's transform, slopes between points, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import HALVES, check_half
from flax import nnx

from jaxiqa import lipschitz
from jaxiqa.layers import Shrinkage, shrink

RANDOM = np.random.default_rng(0)
TAU = np.array([0.5, 1.0, 3.0])


@pytest.mark.parametrize("size", [(5, 7), (8, 6), (1, 4), (1, 1)])
def test_it_is_soft_thresholding_of_numpys_coefficients(size):
    x = RANDOM.normal(size=(2, *size, 3))
    z = np.fft.fft2(x, axes=(1, 2), norm="ortho")
    kept = z * np.maximum(0, 1 - TAU / np.maximum(np.abs(z), 1e-12))
    kept[:, 0, 0] = z[:, 0, 0]  # the mean
    expected = np.fft.ifft2(kept, axes=(1, 2), norm="ortho")
    assert np.abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(
        shrink(jnp.asarray(x, jnp.float32), jnp.asarray(TAU, jnp.float32)), expected.real, atol=3e-6
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_maps_of_half_precision_are_rounded_once(dtype):
    check_half(shrink, [RANDOM.normal(size=(2, 5, 7, 3)), TAU], dtype)


@pytest.mark.slow
def test_no_two_maps_move_apart_and_the_report_says_so():
    block = Shrinkage(3, threshold=0.4)
    for seed in range(20):
        a = jax.random.normal(jax.random.key(seed), (1, 6, 9, 3))
        b = a + 0.1 ** (seed % 4) * jax.random.normal(jax.random.key(100 + seed), a.shape)
        assert float(jnp.linalg.norm(block(a) - block(b))) <= float(jnp.linalg.norm(a - b)) * (1 + 1e-5)
    assert 1 <= lipschitz.report(block, (6, 9, 3)).bound < 1 + 1e-3


def test_means_are_kept_and_noise_is_removed():
    noise = 0.1 * RANDOM.normal(size=(1, 16, 16, 2))
    signal = np.cos(np.arange(16) * 2 * np.pi / 16)[None, None, :, None] + np.zeros_like(noise) + 5
    cleaned = np.asarray(Shrinkage(2, threshold=0.2)(jnp.asarray(signal + noise, jnp.float32)))
    np.testing.assert_allclose(cleaned.mean((1, 2)), (signal + noise).mean((1, 2)), atol=1e-5)
    assert np.abs(cleaned - signal).mean() < 0.4 * np.abs(noise).mean()


@pytest.mark.slow
def test_the_threshold_starts_where_it_is_set_and_has_a_gradient():
    block = Shrinkage(4, threshold=0.25)
    np.testing.assert_allclose(jax.nn.softplus(block.threshold[...]), 0.25, rtol=1e-6)
    x = jax.random.normal(jax.random.key(0), (1, 6, 5, 4))
    gradient = nnx.grad(lambda block: (block(x) ** 2).sum())(block)
    assert bool((gradient.threshold[...] < 0).all())  # larger thresholds leave less


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match="threshold"):
        Shrinkage(4, threshold=threshold)
