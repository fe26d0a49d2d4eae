"""Binomial blurs against SciPy's correlation, and their norms."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from dense_maps import dense

from jaxiqa import lipschitz
from jaxiqa.layers.blur import BLURS

WEIGHTS = {3: np.array([1, 2, 1]) / 4, 5: np.array([1, 4, 6, 4, 1]) / 16}


@pytest.mark.parametrize("size", [(6, 9), (5, 2), (1, 1)])
@pytest.mark.parametrize("taps", BLURS)
def test_it_is_scipys_correlation_with_reflected_borders(taps, size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    expected = x
    for axis in (1, 2):
        expected = scipy.ndimage.correlate1d(expected, WEIGHTS[taps], axis=axis, mode="reflect")
    np.testing.assert_allclose(BLURS[taps](jnp.asarray(x, jnp.float32)), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("taps", BLURS)
def test_its_norm_is_one_and_the_report_says_so(taps):
    assert dense(BLURS[taps], (6, 5, 1)) == pytest.approx(1, rel=1e-6)
    assert lipschitz.report(BLURS[taps], (6, 5, 2)).bound == pytest.approx(1, rel=1e-6)
