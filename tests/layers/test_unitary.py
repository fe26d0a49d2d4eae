import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.interpreters import ad

from jaxiqa.layers.exponential import exponential_p
from jaxiqa.layers.unitary import cayley, expm_eigh, expm_taylor, semi_orthogonal, to_unitary

MAPS = {"eigh": expm_eigh, "taylor": expm_taylor, "cayley": cayley}


def skew(random, *shape, norm=1.0, real=False):
    a = random.normal(size=shape) + (0 if real else 1j * random.normal(size=shape))
    a = a - a.conj().swapaxes(-1, -2)
    return a * norm / np.linalg.norm(a, 2, axis=(-2, -1))[..., None, None]


def reference(name, a):
    if name == "cayley":
        identity = np.eye(a.shape[-1])
        return np.linalg.solve(identity + a, identity - a)
    return np.stack([scipy.linalg.expm(m) for m in a])


def repeated_eigenvalues(c=4):
    q = np.linalg.qr(np.random.default_rng(5).normal(size=(c, c)) + 1j)[0]
    return (q * (1j * np.array([0.7, 0.7, 0.7, -0.2]))) @ q.conj().T


CASES = {
    "zero": np.zeros((1, 4, 4), complex),
    "small": skew(np.random.default_rng(0), 3, 4, 4, norm=0.1),
    "one": skew(np.random.default_rng(1), 3, 5, 5),
    "twenty": skew(np.random.default_rng(2), 3, 6, 6, norm=20.0),
    "repeated": repeated_eigenvalues()[None],
    "real": skew(np.random.default_rng(3), 3, 5, 5, norm=2.0, real=True),
    "one by one": np.full((1, 1, 1), 0.3j),
}


FAST = {"zero", "repeated", "real"}


@pytest.mark.slow
@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
@pytest.mark.parametrize("name", MAPS)
def test_value_and_gradient_equal_scipys_in_float64(name, case):
    a = CASES[case]
    a = a.real if case == "real" else a
    random = np.random.default_rng(9)
    weights = random.normal(size=a.shape) + 1j * random.normal(size=a.shape)
    direction = skew(random, *a.shape) if case != "real" else skew(random, *a.shape, real=True)

    def loss(a):
        return np.sum((weights * reference(name, a)).real)

    with jax.enable_x64(True):
        np.testing.assert_allclose(MAPS[name](jnp.asarray(a)), reference(name, a), atol=1e-7)
        derivative = jax.grad(
            lambda t: jnp.sum((weights * MAPS[name](jnp.asarray(a) + t * jnp.asarray(direction))).real)
        )(0.0)
    step = 1e-6
    numeric = (loss(a + step * direction) - loss(a - step * direction)) / (2 * step)
    assert float(derivative) == pytest.approx(numeric, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("norm", [0.01, *(pytest.param(n, marks=pytest.mark.slow) for n in (1.0, 6.0)), 20.0])
@pytest.mark.parametrize("name", MAPS)
def test_float32_results_are_unitary_for_any_norm(name, norm):
    a = skew(np.random.default_rng(4), 8, 24, 24, norm=norm).astype(np.complex64)
    u = np.asarray(MAPS[name](jnp.asarray(a)), np.complex128)
    assert np.abs(np.linalg.svd(u, compute_uv=False) - 1).max() <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eigh", "taylor"])
def test_exponentials_and_their_derivatives_agree_with_the_reference_data(shared, name):
    arrays = np.load(shared / "oracles" / "public" / "07_expm.npz")
    with jax.enable_x64(True):
        for case in (1, 7, 13, 16, 17, 18, 19):
            a, exponential, direction, derivative = (jnp.asarray(arrays[f"{part}_{case:02d}"]) for part in "AEDF")
            value, backward = jax.vjp(MAPS[name], a)
            np.testing.assert_allclose(value, exponential, atol=2e-8)
            # The rule gives L(A, Cᵀ)ᵀ, so the transposed direction gives the reference's L(A, D).
            np.testing.assert_allclose(backward(direction.T)[0].T, derivative, atol=1e-7)


def test_only_the_skew_part_matters():
    a = np.random.default_rng(6).normal(size=(5, 5)).astype(np.float32)
    np.testing.assert_allclose(to_unitary(jnp.asarray(a)), to_unitary(jnp.asarray((a - a.T) / 2)), atol=1e-6)


def test_every_product_has_the_highest_precision():
    """TensorFloat-32 would break orthogonality at 1e-3; the precision must stand in the program itself."""
    a = jnp.zeros((2, 3, 3), jnp.complex64)
    for name, function in MAPS.items():
        both = jax.jit(jax.value_and_grad(lambda a, f=function: f(a).real.sum()))
        text = both.lower(a).as_text()
        products = text.count("stablehlo.dot_general")
        assert products > 0, name
        assert text.count("precision = [HIGHEST, HIGHEST]") == products, name


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4), (5, 1), (1, 5)])
def test_semi_orthogonal_has_orthonormal_columns_or_rows(shape):
    weight = jnp.asarray(3 * np.random.default_rng(7).normal(size=shape), jnp.float32)
    q = np.asarray(semi_orthogonal(weight), np.float64)
    assert q.shape == shape
    assert np.abs(np.linalg.svd(q, compute_uv=False) - 1).max() <= 2e-6
    gradient = jax.grad(lambda w: (semi_orthogonal(w) * jnp.arange(w.size).reshape(shape)).sum())(weight)
    assert np.isfinite(gradient).all()
    if shape != (1, 5) and shape != (5, 1):
        assert np.abs(gradient).max() > 0


def test_the_exponential_of_a_constant_has_a_zero_derivative():
    a = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    value, change = ad.primitive_jvps[exponential_p]((a,), (ad.Zero(a.aval),), method="taylor")
    np.testing.assert_allclose(value, scipy.linalg.expm(np.asarray(a)), atol=1e-6)
    np.testing.assert_array_equal(change, jnp.zeros_like(a))


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'auto', 'eigh', 'taylor', 'cayley'"):
        to_unitary(jnp.zeros((2, 2)), "qr")


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
@pytest.mark.parametrize("method", ["auto", "eigh", "taylor", "cayley"])
def test_every_norm_of_every_type_gives_a_unitary_matrix(method, dtype):
    rng = np.random.default_rng(8)
    a = rng.normal(size=(2, 5, 5)) + (1j * rng.normal(size=(2, 5, 5)) if dtype.startswith("c") else 0)
    a = a - a.conj().swapaxes(-1, -2)
    a /= np.linalg.norm(a, 2, axis=(-2, -1))[:, None, None]
    wide = dtype in ("float64", "complex128")
    with jax.enable_x64(wide):
        for norm in (1e-8, 1.0, 20.0, 1e3, *(() if method == "cayley" else (1e5, 1e6, 1e9))):
            u = np.asarray(to_unitary(jnp.asarray((norm * a).astype(dtype)), method))
            assert u.dtype == dtype
            assert np.abs(np.linalg.svd(u.astype(np.complex128), compute_uv=False) - 1).max() < (
                1e-14 if wide else 2e-6
            )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_float64_is_accurate_to_its_rounding(dtype):
    rng = np.random.default_rng(9)
    a = rng.normal(size=(6, 6)) + (1j * rng.normal(size=(6, 6)) if dtype == "complex128" else 0)
    a = a - a.conj().T
    with jax.enable_x64(True):
        for norm in (0.1, 1.0, 20.0):
            scaled = a / np.linalg.norm(a, 2) * norm
            expected = scipy.linalg.expm(scaled)
            np.testing.assert_allclose(expm_taylor(jnp.asarray(scaled)), expected, atol=1e-14)
            direction = rng.normal(size=(6, 6)) * (1 + 0j if dtype == "complex128" else 1)
            found = jax.jvp(expm_taylor, (jnp.asarray(scaled),), (jnp.asarray(direction),))[1]
            true = scipy.linalg.expm_frechet(scaled, direction, compute_expm=False)
            np.testing.assert_allclose(found, true, atol=1e-13 * np.abs(true).max() * max(norm, 1))


@pytest.mark.slow
@pytest.mark.parametrize("at", ["zero", *(pytest.param(at, marks=pytest.mark.slow) for at in ("repeated", "general"))])
@pytest.mark.parametrize("method", ["auto", "eigh"])
def test_second_derivatives_are_those_of_finite_differences(method, at):
    rng = np.random.default_rng(10)
    a = {
        "zero": np.zeros((4, 4)),
        "repeated": np.kron(np.eye(2), [[0, 1], [-1, 0]]),
        "general": rng.normal(size=(4, 4)),
    }
    weights, direction, step = rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), 1e-5
    with jax.enable_x64(True):
        slope = jax.grad(lambda a: (to_unitary(a, method) * weights).sum())
        a = jnp.asarray(a[at])
        expected = (slope(a + step * direction) - slope(a - step * direction)) / (2 * step)
        forward_over_reverse = jax.jvp(slope, (a,), (jnp.asarray(direction),))[1]
        reverse_over_reverse = jax.grad(lambda a: (slope(a) * direction).sum())(a)
        np.testing.assert_allclose(forward_over_reverse, expected, atol=1e-8)
        np.testing.assert_allclose(reverse_over_reverse, expected, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9, 8), (5, 3), (3, 3), (64, 32), (8, 9), (2, 1), (1, 1)])
def test_large_weights_give_orthonormal_columns_too(shape):
    for seed in range(10):
        weight = np.random.default_rng(seed).normal(size=shape)
        q = np.asarray(semi_orthogonal(jnp.float32(100 * weight / np.linalg.norm(weight, 2))), np.float64)
        np.testing.assert_allclose(np.linalg.svd(q, compute_uv=False), 1, atol=2e-6)
