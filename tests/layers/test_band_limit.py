"""The band limit against SciPy's cosine transform, and its norm by dense SVD and by the Lipschitz report."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from quick import every

from jaxiqa import lipschitz
from jaxiqa.layers import LowPass, low_pass
from jaxiqa.layers.band_limit import band_gains, band_matrix

X = np.random.default_rng(0).normal(size=(2, 9, 14, 3))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.93, 1.0])
def test_it_multiplies_scipys_cosine_coefficients_by_the_gains(share):
    z = scipy.fft.dctn(X, axes=(1, 2), norm="ortho")
    z *= band_gains(9, share)[:, None, None] * band_gains(14, share)[:, None]
    expected = scipy.fft.idctn(z, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(low_pass(jnp.asarray(X, jnp.float32), share), expected, atol=2e-6)


@pytest.mark.parametrize("share", [0.05, 0.4, 1.0])
def test_a_constant_map_does_not_change_and_one_pixel_is_not_lost(share):
    x = jnp.full((1, 7, 5, 2), 0.3)
    np.testing.assert_allclose(low_pass(x, share), x, atol=1e-6)
    np.testing.assert_allclose(low_pass(x[:, :1, :1], share), x[:, :1, :1], atol=1e-6)


@pytest.mark.parametrize(("side", "share"), [(1, 0.3), (8, 0.5), (15, 0.5), (32, 0.9)])
def test_the_matrix_of_an_axis_is_symmetric_with_singular_values_from_0_to_1(side, share):
    matrix = band_matrix(side, share)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    values = np.linalg.eigvalsh(matrix)
    assert values.min() > -1e-12
    assert values.max() == pytest.approx(1, abs=1e-12)
    gains = band_gains(side, share)
    assert (np.diff(gains) <= 0).all()
    assert (gains[np.arange(side) >= share * side] == 0).all()
    assert (gains[np.arange(side) <= share * side / 2] == 1).all()


@pytest.mark.parametrize("size", every(2, [(8, 8, 3), (9, 14, 1)]))
def test_the_report_bounds_it_by_one(size):
    report = lipschitz.report(LowPass(share=0.4), size)
    assert report.bound == pytest.approx(1, abs=1e-4)


def test_a_contour_rings_less_than_with_a_sharp_edge():
    step = jnp.repeat(jnp.array([0.0, 1.0]), 32).reshape(1, 1, 64, 1)
    z = scipy.fft.dctn(np.asarray(step), axes=(2,), norm="ortho")
    z[:, :, 24:] = 0  # about the same energy is kept
    sharp = scipy.fft.idctn(z, axes=(2,), norm="ortho")
    far = np.abs(np.arange(64) - 31.5) > 8
    smooth, ringing = (np.abs(np.asarray(x - step))[0, 0, far, 0].mean() for x in (low_pass(step, 0.5), sharp))
    assert smooth < 0.3 * ringing


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        LowPass(share=share)
    with pytest.raises(ValueError, match="share"):
        low_pass(jnp.ones((1, 4, 4, 1)), share)
