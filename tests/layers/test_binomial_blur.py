"""The binomial blur against SciPy and dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxiqa import lipschitz
from jaxiqa.layers.blur import binomial_blur

KERNELS = {3: np.array([1, 2, 1]) / 4, 5: np.array([1, 4, 6, 4, 1]) / 16}


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", [(7, 6), (5, 9), (2, 3), (1, 4)])
def test_the_blur_is_scipys_with_mirrored_edges(taps, size):
    """Two copies of the edge, one after the other, are the mirror image of the map."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    expected = x
    for axis in (1, 2):
        expected = scipy.ndimage.correlate1d(expected, KERNELS[taps], axis, mode="reflect")
    np.testing.assert_allclose(binomial_blur(jnp.asarray(x, jnp.float32), taps), expected, atol=1e-6)


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_the_dense_matrix_is_symmetric_with_norm_one(taps, size):
    def flat(x):
        return binomial_blur(x.reshape(1, *size, 1), taps).ravel()

    matrix = np.asarray(jax.jacobian(flat)(jnp.zeros(size[0] * size[1])), np.float64)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-6)
    assert np.linalg.norm(matrix, 2) == pytest.approx(1, abs=1e-6)
    found = lipschitz.report(lambda x: binomial_blur(x, taps), (*size, 3))
    assert found.bound == 1
    assert found.rows[0].exact


def test_constants_stay_constant_and_other_taps_are_refused():
    x = jnp.full((1, 5, 4, 2), 0.3, jnp.float32)
    np.testing.assert_allclose(binomial_blur(x, 5), x, rtol=1e-6)
    with pytest.raises(ValueError, match="taps=4 is not allowed; choose from 3, 5"):
        binomial_blur(x, 4)


def test_the_derivative_of_a_blur_has_no_rule_of_the_blur():
    """Its program has another structure, so its bound comes from its parts: correct, but not tight."""
    pull = lambda y: jax.vjp(lambda x: binomial_blur(x, 3), jnp.zeros_like(y))[1](y)[0]  # noqa: E731
    assert 1 <= lipschitz.report(pull, (4, 5, 3)).bound < 6
