import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.lipschitz import circular_singular_values, conv_norm, gram_bound, largest_norm, power_iteration, spectral

RANDOM = np.random.default_rng(0)
CASES = {
    "plain": {"kernel": (3, 3, 3, 3)},
    "wide": {"kernel": (3, 3, 2, 5)},
    "narrow": {"kernel": (3, 5, 4, 2)},
    "strided": {"kernel": (3, 3, 2, 3), "stride": (2, 2)},
    "stride over rows": {"kernel": (3, 3, 2, 3), "stride": (2, 1)},
    "grouped": {"kernel": (3, 3, 2, 6), "groups": 3},
    "depthwise": {"kernel": (3, 3, 1, 4), "groups": 4, "stride": (2, 2)},
    "dilated": {"kernel": (3, 3, 2, 2), "dilation": (2, 1)},
    "one by one": {"kernel": (1, 1, 3, 4)},
    "strided one by one": {"kernel": (1, 1, 3, 4), "stride": (2, 2)},
    "larger than the map": {"kernel": (7, 9, 2, 2)},
    "even": {"kernel": (2, 4, 2, 3)},
}


def dense(kernel, size, padding, *, stride=(1, 1), groups=1, dilation=(1, 1)):
    """Return the whole matrix of the convolution, from its action on a basis."""
    kh, kw, members, _ = kernel.shape
    basis = np.eye(size[0] * size[1] * members * groups).reshape(-1, *size, members * groups)
    reach = [(k - 1) * d for k, d in zip((kh, kw), dilation, strict=True)]
    if padding == "circular":
        basis = np.pad(basis, ((0, 0), (0, reach[0]), (0, reach[1]), (0, 0)), mode="wrap")
        padding = "VALID"
    with jax.enable_x64(True):
        y = jax.lax.conv_general_dilated(
            jnp.asarray(basis),
            jnp.asarray(kernel),
            stride,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    return np.asarray(y).reshape(len(basis), -1).T


@pytest.mark.parametrize("case", CASES)
def test_circular_singular_values_are_those_of_the_dense_matrix(case):
    options = dict(CASES[case])
    kernel, size = RANDOM.normal(size=options.pop("kernel")), (6, 8)
    found = np.sort(circular_singular_values(kernel, size, **options).ravel())[::-1]
    expected = np.linalg.svd(dense(kernel, size, "circular", **options), compute_uv=False)
    assert len(found) <= len(expected)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-9)
    np.testing.assert_allclose(expected[len(found) :], 0, atol=1e-9)
    bound = conv_norm(kernel, size, padding="circular", **options)
    assert bound.exact
    assert bound.value == pytest.approx(expected[0], rel=1e-9)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3))])
@pytest.mark.parametrize("case", [case for case in CASES if case != "larger than the map"])
def test_zero_padding_is_bounded_tightly_from_above(case, padding):
    options = dict(CASES[case])
    kernel, size = RANDOM.normal(size=options.pop("kernel")), (7, 9)
    norm = np.linalg.norm(dense(kernel, size, padding, **options), 2)
    bound = conv_norm(kernel, size, **options)
    assert norm <= bound.value <= (1.35 if padding != "VALID" else 1.8) * norm
    assert not bound.exact or bound.value == pytest.approx(norm, rel=1e-9)


@pytest.mark.parametrize("case", ["plain", "strided", "grouped", "dilated"])
def test_a_coarse_grid_bounds_every_size_at_once(case, monkeypatch):
    monkeypatch.setattr(spectral, "GRIDS", (8,))
    options = dict(CASES[case])
    kernel = RANDOM.normal(size=options.pop("kernel"))
    bound = conv_norm(kernel, (400, 600), **options)
    assert "frequencies" in bound.method
    norms = [circular_singular_values(kernel, size, **options).max() for size in ((12, 12), (22, 30), (40, 32))]
    assert max(norms) <= bound.value <= 1.4 * max(norms)


def test_the_grid_correction_is_needed_and_enough():
    """The largest frequency of the kernel is between grid points: the grid alone would be too low."""
    taps = np.cos(2 * np.pi * 1.5 / 8 * np.arange(-3, 4))
    kernel = np.outer(taps, taps)[:, :, None, None]
    true = circular_singular_values(kernel, (256, 256)).max()
    alone = circular_singular_values(kernel, (8, 8)).max()
    assert alone < 0.999 * true <= alone / np.cos(3 * np.pi / 8) ** 2


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 40, 40), (2, 100, 130)])
def test_gram_iteration_is_a_tight_upper_bound(shape):
    matrices = RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape)
    norms = np.linalg.norm(matrices, 2, axis=(-2, -1))
    bounds = gram_bound(matrices)
    assert (bounds >= norms).all()
    assert (bounds <= 1.04 * norms).all()
    np.testing.assert_allclose(gram_bound(1e200 * matrices), 1e200 * bounds, rtol=1e-9)
    assert gram_bound(0 * matrices).max() == 0


def test_large_matrices_are_bounded_by_products(monkeypatch):
    monkeypatch.setattr(spectral, "GRAM_ABOVE", 3)
    matrices = RANDOM.normal(size=(2, 5, 6))
    found = largest_norm(matrices)
    norm = np.linalg.norm(matrices, 2, axis=(1, 2)).max()
    assert (found.exact, found.method) == (False, "Gram iteration")
    assert norm <= found.value <= 1.02 * norm


def test_values_that_are_not_finite_have_no_bound():
    kernel = np.full((3, 3, 1, 1), np.nan)
    assert conv_norm(kernel, (4, 4)).value == np.inf
    assert largest_norm(np.array([[np.inf]])).value == np.inf
    with pytest.raises(ValueError, match="multiple of stride"):
        circular_singular_values(np.ones((3, 3, 1, 1)), (5, 4), stride=(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 5, 60])
def test_power_iteration_is_a_lower_bound_of_any_functions_jacobian(steps):
    matrix = jnp.asarray(RANDOM.normal(size=(6, 9)), jnp.float32)
    x = jnp.asarray(RANDOM.normal(size=9), jnp.float32)
    function = lambda x: jnp.tanh(matrix @ x)  # noqa: E731
    norm = np.linalg.norm(np.asarray(jax.jacobian(function)(x), np.float64), 2)
    found = float(power_iteration(function, x, jax.random.key(0), steps=steps))
    assert found <= norm * (1 + 1e-6)
    assert steps < 60 or found == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("padding", ["symmetric", "reflect", "edge", "SAME", None])
def test_an_unknown_padding_is_refused(padding):
    """Padding that copies values has a larger constant: at the edge a 1x3 kernel counts a value twice."""
    with pytest.raises((ValueError, TypeError), match=r"'zeros', 'circular'|Expected type"):
        conv_norm(np.ones((3, 3, 1, 1)), (4, 4), padding=padding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (5, 4), "padding": "circular", "stride": (2, 2)}, "multiple of stride"),
        ({"size": (401, 600), "padding": "circular", "stride": (2, 2)}, "multiple of stride"),
        ({"size": (0, 4)}, "size="),
        ({"size": (4, 4), "stride": (0, 1)}, "stride="),
        ({"size": (4, 4), "dilation": (1, -1)}, "dilation="),
        ({"size": (4, 4), "groups": 2}, "groups=2"),
    ],
)
def test_impossible_convolutions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        conv_norm(np.ones((3, 3, 1, 3)), **options)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("size", [(6, 8), (40, 44)])
def test_a_complex_kernel_keeps_its_imaginary_part(padding, size):
    kernel = RANDOM.normal(size=(3, 3, 2, 3)) + 1j * RANDOM.normal(size=(3, 3, 2, 3))
    bound = conv_norm(kernel, size, padding=padding).value
    true = circular_singular_values(kernel, (size[0] + 2, size[1] + 2)).max()
    assert 0.85 * true <= bound <= 1.4 * true
    if padding == "circular":
        assert circular_singular_values(kernel, size).max() <= bound * (1 + 1e-9)
    assert conv_norm(1j * kernel.real, size, padding=padding).value == pytest.approx(
        conv_norm(kernel.real, size, padding=padding).value, rel=1e-9
    )
