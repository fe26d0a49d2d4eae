import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.layers import orthonormal_basis, reflect


def unitary(v):
    return reflect(jnp.eye(v.shape[-2], dtype=v.dtype), orthonormal_basis(v))


def random_matrix(c, r, real=False):
    random = np.random.default_rng(0)
    return random.normal(size=(2, c, r)) + (0 if real else 1j * random.normal(size=(2, c, r)))


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True])
def test_value_and_gradient_equal_the_formula(real):
    v, direction = random_matrix(5, 2, real), random_matrix(5, 2, real)[::-1]
    weights = np.random.default_rng(1).normal(size=(2, 5, 5))

    def formula(v):
        h = np.conj(np.swapaxes(v, -1, -2))
        return np.eye(5) - 2 * v @ np.linalg.inv(h @ v) @ h

    with jax.enable_x64(True):
        u = np.asarray(jax.vmap(unitary)(jnp.asarray(v)))
        loss = lambda t: jnp.sum(weights * jax.vmap(unitary)(jnp.asarray(v) + t * jnp.asarray(direction)).real)  # noqa: E731
        derivative = float(jax.grad(loss)(0.0))
    np.testing.assert_allclose(np.swapaxes(u, -1, -2), formula(v), atol=1e-12)
    step = 1e-6
    numeric = [np.sum(weights * np.swapaxes(formula(v + s * step * direction), -1, -2).real) for s in (1, -1)]
    assert derivative == pytest.approx((numeric[0] - numeric[1]) / (2 * step), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["zero", "repeated", "tiny"])
def test_dependent_columns_give_a_unitary_matrix_with_finite_gradients(case):
    v = jnp.asarray(random_matrix(5, 2)[0], jnp.complex64)
    v = {"zero": 0 * v, "repeated": v.at[:, 1].set(v[:, 0]), "tiny": v * jnp.array([1.0, 1e-12])}[case]
    u = np.asarray(unitary(v), np.complex128)
    np.testing.assert_allclose(u @ u.conj().T, np.eye(5), atol=2e-6)
    gradient = jax.grad(lambda v: unitary(v).real[0, 1])(v)
    assert np.isfinite(np.asarray(gradient)).all()
