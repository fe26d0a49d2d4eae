"""Half precision, float64 and the derivatives of every public name in `jaxiqa.layers`."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from derivatives import HALVES, check_derivatives, check_float64, check_half, inexact_types
from flax import nnx
from layer_cases import (
    COMPLEX,
    FUNCTIONS,
    KERNEL,
    MACHINERY,
    MODULES,
    MORE,
    NO_ARRAYS,
    NO_FRACTIONS,
    OF_OTHERS,
    SQUARE,
    TALL,
    X,
)
from quick import every

from jaxiqa import layers
from jaxiqa.nn import kernels

ONE_FAST = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
"""Both half-precision types; one is enough for the quick tests."""


def test_every_public_name_is_among_the_cases():
    assert set(layers.__all__) == set(FUNCTIONS) | set(MODULES) | NO_ARRAYS


def test_every_function_that_layers_are_made_of_is_among_the_cases():
    modules = [
        importlib.import_module(f"{room.__name__}.{found.name}")
        for room in (layers, kernels)
        for found in pkgutil.iter_modules(room.__path__)
    ]
    functions = {
        name
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module.__name__
    }
    public = {name for name in functions if not name.startswith("_")} - {"materialize", "to_direct"}
    assert public == set(FUNCTIONS) | set(MACHINERY) | NO_ARRAYS - {"BASELINES"} | NO_FRACTIONS | OF_OTHERS | COMPLEX


CASES = FUNCTIONS | MORE | MACHINERY
JOINED = {"cayley of complex", "basis of complex", "orthonormal_basis", "from_frequencies", "product"}
"""Cases without half precision: complex numbers, or two joined functions; the others call `product` with arrays that
they have widened."""
WIDENED = {"dense", "descend"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", every(4, sorted(set(CASES) - JOINED - WIDENED)))
def test_half_precision_is_float32_rounded_once(name, dtype):
    check_half(*CASES[name], dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", sorted(WIDENED))
def test_layers_with_weights_return_float32(name, dtype):
    function, arrays = CASES[name]
    rounded = [jnp.asarray(a, dtype) for a in arrays]
    found = function(*rounded)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, function(*(a.astype(jnp.float32) for a in rounded)))


@pytest.mark.parametrize(("narrow", "wide"), [("bfloat16", "float32"), ("float16", "float64"), ("float32", "float64")])
@pytest.mark.parametrize("name", ["convolve", "grouped_conv", "wide_conv"])
def test_a_map_and_a_kernel_of_two_types_are_promoted_as_in_jax(name, narrow, wide):
    function, (x, kernel) = CASES[name]
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x, narrow), jnp.asarray(kernel, wide)
        for given in ((x, kernel), (x.astype(wide), kernel.astype(narrow))):
            found = function(*given)
            assert found.dtype == wide
            exact = function(*(array.astype(wide) for array in given))
            np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("dtype", ONE_FAST)
def test_a_wide_convolution_by_taps_is_rounded_once(dtype, monkeypatch):
    """A large map is not gathered: it is a sum of one product per tap."""
    monkeypatch.setattr("jaxiqa.nn.kernels.wide.GATHERED", 0)
    jax.clear_caches()
    check_half(*MACHINERY["wide_conv"], dtype)
    jax.clear_caches()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_basis_of_half_precision_is_rounded_once(dtype):
    check_half(lambda v: layers.orthonormal_basis(v), [TALL], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, CASES))
def test_float64_is_never_narrowed(name):
    check_float64(*CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_forward_mode_and_second_order(name):
    check_derivatives(*CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ONE_FAST)
@pytest.mark.parametrize("name", every(2, MODULES))
def test_layers_widen_maps_of_half_precision(name, dtype):
    """Layers with float32 weights return float32; a layer without weights keeps the type of its input."""
    layer, x = MODULES[name](), jnp.asarray(X, dtype)
    found, exact = layer(x), layer(x.astype(jnp.float32))
    assert found.dtype == (dtype if name in ("LowPass", "SquarePool", "WaveletShrinkage") else jnp.float32)
    np.testing.assert_array_equal(found, exact.astype(found.dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ONE_FAST)
@pytest.mark.parametrize("name", sorted(set(MODULES) - {"SquarePool", "materialize", "Spectrum"}))
def test_layers_with_half_precision_weights_run(name, dtype):
    layer = MODULES[name]()
    nnx.update(layer, jax.tree.map(lambda p: p.astype(dtype), nnx.state(layer, nnx.Param)))
    assert np.isfinite(np.asarray(layer(jnp.asarray(X, dtype)), np.float32)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", every(4, MODULES))
def test_layers_of_float64_are_never_narrowed_and_accept_float32_maps(name):
    with jax.enable_x64(True):
        layer, x = MODULES[name](), jnp.asarray(X)
        if name in ("Bottleneck", "RobustBlock"):  # Flax's convolutions start as float32 everywhere
            nnx.update(layer, jax.tree.map(lambda p: p.astype(jnp.float64), nnx.state(layer, nnx.Param)))
        assert layer(x).dtype == jnp.float64
        assert inexact_types(layer, x) <= {"float64", "complex128"}
        narrow = layer(x.astype(jnp.float32))
        np.testing.assert_allclose(narrow, layer(x), rtol=1e-4, atol=1e-4)
    layer = MODULES[name]()
    with jax.enable_x64(True):
        assert layer(jnp.asarray(X)).dtype == jnp.float64  # weights of float32


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_layers_have_forward_mode_and_second_order(name):
    with jax.enable_x64(True):
        graph, params, rest = nnx.split(MODULES[name](), nnx.Param, ...) if name != "Spectrum" else (None, None, None)
        spectrum = MODULES[name]() if name == "Spectrum" else None
        leaves, tree = jax.tree.flatten(params)
        call = lambda x, *p: spectrum(x) if spectrum else nnx.merge(graph, tree.unflatten(p), rest)(x)  # noqa: E731
        check_derivatives(call, [X, *leaves])


def dense_convolution(x, kernel, function):
    """Compute y(f) = U(Ŵ(f)) x(f) frequency by frequency, with NumPy and SciPy only."""
    _, h, w, _ = x.shape
    rows, columns = (np.arange(n) - n // 2 for n in kernel.shape[:2])
    z = np.fft.fft2(x, axes=(1, 2))
    y = np.zeros_like(z)
    for i in range(h):
        for j in range(w):
            phase = np.exp(-2j * np.pi * (np.add.outer(i * rows / h, j * columns / w)))
            y[:, i, j] = z[:, i, j] @ function(np.einsum("st,stmn->mn", phase, kernel)).T
    return np.fft.ifft2(y, axes=(1, 2)).real


def exponential(w):
    return scipy.linalg.expm((w - w.conj().T) / 2)


def transform(w):
    a = (w - w.conj().T) / 2
    return np.linalg.solve(np.eye(len(a)) + a, np.eye(len(a)) - a)


def reflection(v):
    return np.eye(len(v)) - 2 * v @ np.linalg.solve(v.conj().T @ v, v.conj().T)


@pytest.mark.parametrize(
    ("unitary", "function", "columns"),
    [("expm", exponential, 4), ("cayley", transform, 4), ("reflection", reflection, 2)],
)
def test_a_float64_convolution_is_exact_to_its_own_rounding(unitary, function, columns):
    kernel = KERNEL[..., :columns]
    expected = dense_convolution(X, kernel, function)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(X), jnp.asarray(kernel)
        built = layers.unitary_spectrum(kernel, (5, 7), unitary=unitary)
        assert built.matrices.dtype == jnp.complex128
        for found in (layers.orthogonal_convolve(x, kernel, unitary=unitary), built(x)):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_float64_unitary_maps_are_scipys():
    a = (SQUARE - SQUARE.swapaxes(1, 2)) / 2
    with jax.enable_x64(True):
        for function in (layers.to_unitary, layers.expm_eigh, layers.expm_taylor):
            np.testing.assert_allclose(function(jnp.asarray(a)), scipy.linalg.expm(a), rtol=0, atol=1e-13)
        for shape in ((5, 3), (3, 5), (4, 4)):
            q = np.asarray(layers.semi_orthogonal(jnp.asarray(np.random.default_rng(1).normal(size=shape))))
            gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
            np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)
