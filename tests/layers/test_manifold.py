"""Steps on the manifold of orthonormal columns, against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxiqa.layers.manifold import ORDERS, ROUNDING, corrected, rotate, rotation

SHAPES = {"square": (5, 5), "tall": (7, 3), "wide": (2, 6), "row": (1, 4)}


def draw(shape, kind, batch=(3,), seed=0):
    """Return a batch of matrices with orthonormal columns (or rows), and a step."""
    random = np.random.default_rng(seed)
    n, p = max(shape), min(shape)
    free = random.normal(size=(2, *batch, n, p)) + 1j * random.normal(size=(2, *batch, n, p)) * (kind == "complex")
    w = np.linalg.qr(free[0])[0]
    w, step = (w, free[1]) if shape[0] >= shape[1] else (w.swapaxes(-1, -2), free[1].swapaxes(-1, -2))
    return w, step


def parts(a, kind):
    return (jnp.float32(a.real), jnp.float32(a.imag)) if kind == "complex" else (jnp.float32(a.real),)


def whole(a):
    return np.asarray(a[0], np.complex128) + 1j * np.asarray(a[1]) if len(a) == 2 else np.asarray(a[0], np.float64)


def singular_error(w):
    return np.abs(np.linalg.svd(w, compute_uv=False) - 1).max()


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_rotation_is_skew_and_its_step_is_tangent(shape, kind):
    w, step = draw(shape, kind)
    omega = whole(rotation(parts(w, kind), parts(step, kind)))
    assert omega.shape == (3, max(shape), max(shape))
    np.testing.assert_allclose(omega, -omega.conj().swapaxes(-1, -2), atol=1e-6)
    if shape[0] == shape[1]:  # the orthogonal projection of the step
        inner = w.conj().swapaxes(-1, -2) @ step
        tangent = step - w @ (inner + inner.conj().swapaxes(-1, -2)) / 2
        np.testing.assert_allclose(omega @ w, tangent, atol=1e-5)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("size", [0.019, 0.14, 0.7, 0.8, 9.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_step_is_the_exponential_and_its_error_is_bounded(shape, size, kind):
    w, step = draw(shape, kind)
    omega = whole(rotation(parts(w, kind), parts(step, kind)))
    omega *= size / np.sqrt(np.linalg.norm(omega @ omega, axis=(-2, -1)).max())
    found, added = jax.jit(rotate)(parts(w, kind), parts(omega, kind))
    tall = w if shape[0] >= shape[1] else w.conj().swapaxes(-1, -2)
    expected = np.stack([scipy.linalg.expm(a) @ b for a, b in zip(omega, tall, strict=True)])
    expected = expected if shape[0] >= shape[1] else expected.conj().swapaxes(-1, -2)
    order = next((order for limit, order in ORDERS if size <= limit), None)
    left = 0 if order is None else size ** (order + 1) / np.prod(np.arange(1.0, order + 2))
    np.testing.assert_allclose(whole(found), expected, atol=2 * left + 3e-6)
    assert singular_error(whole(found)) <= float(added) + 1e-6
    assert added < 2e-6


@pytest.mark.parametrize("order", [2, 4, 8])
def test_the_bound_of_a_polynomial_is_reached_by_one_plane(order):
    """A rotation by r in a plane: the singular values of the polynomial are |1 + ir − r²/2 …|."""
    limit = {o: size for size, o in ORDERS}[order]
    r = 0.999 * limit / 2**0.25  # ‖Ω²‖_F = r²√2
    value = abs(sum((1j * r) ** k / np.prod(np.arange(1.0, k + 1)) for k in range(order + 1)))
    _, added = rotate((jnp.eye(2),), (jnp.array([[0.0, -r], [r, 0.0]], jnp.float32),))
    assert abs(value - 1) <= float(added) - 0.999 * ROUNDING  # without the share of rounding, which would hide it


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("size", [0.02, 0.6, 2.0])
@pytest.mark.parametrize("m", [3, 64, 300])
def test_the_bound_includes_the_rounding_of_large_matrices(m, size, kind):
    w, step = draw((m, m), kind, batch=(1,))
    omega = whole(rotation(parts(w, kind), parts(step, kind)))
    omega *= 0.999 * size / np.sqrt(np.linalg.norm(omega @ omega))
    found, added = jax.jit(rotate)(parts(w, kind), parts(omega, kind))
    assert singular_error(whole(found)) <= float(added)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_correction_squares_the_distance(shape, kind):
    w, step = draw(shape, kind)
    near = w + 1e-3 * step / np.linalg.norm(step, 2, axis=(-2, -1), keepdims=True)
    before = singular_error(near)
    after = singular_error(whole(corrected(parts(near, kind))))
    assert before > 1e-4
    assert after < 2 * before**2 + 1e-6


def test_no_step_changes_nothing_and_zero_matrices_are_accepted():
    w = jnp.eye(3)[None]
    found, _ = rotate((w,), (jnp.zeros((1, 3, 3)),))
    np.testing.assert_array_equal(found[0], w)
    assert rotate((w[:0],), (jnp.zeros((0, 3, 3)),))[0][0].shape == (0, 3, 3)
