"""Every other 1-Lipschitz convolution, by the SVD of its Jacobian: random inputs hide errors by a factor of 10."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxiqa.layers import BASELINES, SLL, SOC
from jaxiqa.layers.kernel_bounds import norm_bound, overlaps

PAIRS = {"soc": [(3, 3), (3, 5), (5, 3)], "aol": [(3, 3), (3, 5), (5, 3)], "sandwich": [(3, 5), (5, 3)]}
CASES = [(name, *pair) for name in BASELINES for pair in PAIRS.get(name, [(4, 4)])]


def singular_values(layer, x):
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: layer(x).ravel()))(x), np.float64)
    return np.linalg.svd(jacobian.reshape(len(jacobian), -1), compute_uv=False)


def stretched(layer, x):
    """Train with Adam to make the output as large as possible."""
    graphdef, params = nnx.split(layer)
    optimizer = optax.adam(0.05)
    state = optimizer.init(params)
    gradient = jax.jit(jax.grad(lambda p: -jnp.mean((nnx.merge(graphdef, p)(x) - nnx.merge(graphdef, p)(0 * x)) ** 2)))
    for _ in range(20):
        updates, state = optimizer.update(gradient(params), state)
        params = optax.apply_updates(params, updates)
    return nnx.merge(graphdef, params)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cin", "cout"), CASES)
def test_no_direction_is_amplified_before_and_after_training(name, cin, cout):
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, cin))
    fresh = BASELINES[name](cin, cout, rngs=nnx.Rngs(0))
    later = stretched(fresh, x)
    assert later(x).shape == (1, 5, 4, cout)
    before, after = singular_values(fresh, x), singular_values(later, x)
    assert max(before.max(), after.max()) <= 1 + 5e-6
    assert after.max() > 0.5


@pytest.mark.parametrize(("terms", "error"), [(5, 0.12), (12, 5e-6)])
def test_soc_is_orthogonal_to_its_stated_error(terms, error):
    x = jnp.zeros((1, 5, 4, 3))
    layer = SOC(3, 3, terms=terms, rngs=nnx.Rngs(1))
    layer.kernel[...] = 20 * layer.kernel[...]
    worst = np.abs(singular_values(layer, x) - 1).max()
    assert worst <= error
    assert terms == 12 or worst > 1e-5  # and five terms are not enough


@pytest.mark.slow
def test_slls_q_does_not_cancel():
    layer = SLL(4, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 4))
    before = layer(x)
    layer.log_q[...] = jnp.array([1.0, -1.0, 0.5, 0.0])
    assert float(jnp.abs(layer(x) - before).max()) > 1e-2
    assert singular_values(layer, x).max() <= 1 + 5e-6


@pytest.mark.slow
def test_the_norm_bound_lies_above_dense_norms_at_several_sizes():
    kernel = jax.random.normal(jax.random.key(1), (3, 5, 2, 4))
    bound = float(norm_bound(kernel))
    for size in ((4, 6), (9, 8)):
        basis = jnp.eye(size[0] * size[1] * 2).reshape(-1, *size, 2)
        for padding in ("SAME", "circular"):
            padded = jnp.pad(basis, ((0, 0), (1, 1), (2, 2), (0, 0)), mode="wrap") if padding == "circular" else basis
            y = jax.lax.conv_general_dilated(
                padded,
                kernel,
                (1, 1),
                "VALID" if padding == "circular" else "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            norm = np.linalg.norm(np.asarray(y).reshape(len(basis), -1), 2)
            assert 0.2 * bound < norm <= bound


def test_overlaps_are_the_absolute_correlations():
    kernel = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    expected = np.zeros((2, 2))
    padded = np.pad(kernel, ((1, 1), (2, 2), (0, 0), (0, 0)))
    for s in range(3):
        for t in range(5):
            expected += np.abs(np.einsum("abio,abjo->ij", kernel, padded[s : s + 2, t : t + 3]))
    np.testing.assert_allclose(overlaps(jnp.asarray(kernel)), expected, rtol=1e-5)


def test_errors_name_the_bad_argument():
    with pytest.raises(ValueError, match="cin=3 and cout=4"):
        SLL(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must be odd"):
        SOC(3, 3, kernel_size=(2, 3), rngs=nnx.Rngs(0))
