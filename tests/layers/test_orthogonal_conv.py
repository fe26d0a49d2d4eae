import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import every, only

from jaxiqa.layers import spectrum
from jaxiqa.layers.fourier import low_frequencies, phases
from jaxiqa.layers.orthogonal_conv import OrthogonalConv
from jaxiqa.layers.spectrum import orthogonal_convolve, unitary_spectrum
from jaxiqa.layers.unitary import semi_orthogonal

SIZES = [(16, 16), (15, 15), (12, 20), (7, 10), (2, 3), (32, 42)]


def worst_singular_value(kernel, size, unitary, **options):
    u = np.asarray(unitary_spectrum(kernel, size, unitary=unitary, **options).matrices, np.complex128)
    if unitary == "reflection":
        u = np.eye(u.shape[-2]) - 2 * u @ u.conj().swapaxes(-1, -2)
    return np.abs(np.linalg.svd(u, compute_uv=False) - 1).max()


def dense(function, size, cin):
    """Return the matrix of a linear map of feature maps, column by column, in float64."""
    h, w = size
    basis = jnp.eye(h * w * cin).reshape(-1, h, w, cin)
    return np.asarray(function(basis), np.float64).reshape(len(basis), -1).T


def trained(layer, steps=100):
    """Train with Adam towards a random target, at a rate that increases ‖A‖."""
    graphdef, params = nnx.split(layer)
    x = jax.random.normal(jax.random.key(1), (2, 6, 5, layer.cin))
    target = jax.random.normal(jax.random.key(2), (2, 6, 5, layer.cout))
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda p: jnp.mean((nnx.merge(graphdef, p)(x) - target) ** 2))(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return nnx.merge(graphdef, params)


FORMS = {
    "expm": {},
    "cayley": {"unitary": "cayley"},
    "reflection": {"unitary": "reflection", "rank": 2},
    "groups": {"groups": 2},
    "band": {"band": 0.6},
    "wide": {"cout": 9},
    "narrow": {"cout": 4, "unitary": "cayley"},
}


@pytest.fixture(scope="module", params=FORMS)
def layers(request):
    options = {"cout": 6, **FORMS[request.param]}
    fresh = OrthogonalConv(6, **options, use_bias=False, rngs=nnx.Rngs(0))
    return fresh, trained(fresh)


@pytest.mark.slow
@pytest.mark.parametrize("size", only(SIZES[:1], SIZES))
def test_every_singular_value_is_one_before_and_after_training(layers, size):
    """At each frequency the layer is U(f) times its 1×1 maps, so these are all its singular values."""
    fresh, later = layers
    assert np.abs(np.asarray(fresh.kernel[...]) - np.asarray(later.kernel[...])).max() > 0.1
    for layer in layers:
        options = {"groups": layer.groups, "band": layer.band}
        assert worst_singular_value(layer.kernel[...], size, layer.unitary, **options) <= 5e-6
        for matrix in layer.maps():
            if matrix is not None:
                values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
                assert np.abs(values - 1).max() <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", every(2, [{}, {"groups": 2}, {"unitary": "reflection"}, {"band": 0.5}, {"stride": 2}])
)
@pytest.mark.parametrize(
    ("cin", "cout"), [(4, 4), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((4, 6), (6, 4)))]
)
def test_every_form_is_orthogonal_an_isometry_or_a_co_isometry(options, cin, cout):
    layer = OrthogonalConv(cin, cout, **options, use_bias=False, rngs=nnx.Rngs(3))
    size = (6, 4)
    values = np.linalg.svd(dense(layer, size, cin), compute_uv=False)
    inputs = size[0] * size[1] * cin
    outputs = size[0] * size[1] * cout // layer.stride**2
    assert len(values) == min(inputs, outputs)
    assert np.abs(values - 1).max() <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("unitary", ["expm", "reflection"])
def test_maps_of_both_determinants_are_reached(unitary):
    signs = set()
    for seed in range(6):
        layer = OrthogonalConv(
            4, 4, unitary=unitary, rank=2 if unitary == "reflection" else None, use_bias=False, rngs=nnx.Rngs(seed)
        )
        signs.add(np.sign(np.linalg.det(dense(layer, (1, 1), 4))))
    assert signs == {-1.0, 1.0}


@pytest.mark.slow
def test_above_the_band_only_the_fixed_base_acts():
    layer = OrthogonalConv(4, 4, band=0.5, use_bias=False, rngs=nnx.Rngs(4))
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    found = np.fft.rfft2(np.asarray(layer(jnp.asarray(x))), axes=(1, 2)).reshape(-1, 4)
    base = np.fft.rfft2(x @ np.asarray(layer.base[...]).T, axes=(1, 2)).reshape(-1, 4)
    low = low_frequencies((8, 8), 0.5)
    high = np.setdiff1d(np.arange(len(base)), low)
    np.testing.assert_allclose(found[high], base[high], atol=2e-5)
    assert np.abs(found[low] - base[low]).max() > 0.5


@pytest.mark.slow
def test_groups_do_not_mix_after_the_base():
    kernel = 0.3 * jax.random.normal(jax.random.key(5), (3, 3, 6, 3))
    x = jnp.zeros((1, 4, 5, 6)).at[..., :3].set(jax.random.normal(jax.random.key(6), (1, 4, 5, 3)))
    y = orthogonal_convolve(x, kernel, groups=2)
    np.testing.assert_allclose(y[..., 3:], 0, atol=1e-6)
    np.testing.assert_allclose(y[..., :3], orthogonal_convolve(x[..., :3], kernel[:, :, :3]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", every(2, ["wide", "eq", "narrow", "k1"]))
def test_cayley_equals_the_authors_convolution(shared, case):
    """The authors' convention (kernel anchor, conjugation, shift) around our map from kernels to unitary matrices."""
    oracle = np.load(shared / "oracles" / "public" / "07_cayley_conv.npz")
    weight, x = oracle[f"{case}__weight"], oracle[f"{case}__x"]  # cout cin k k; b c n n
    n, k = x.shape[-1], weight.shape[-1]
    shift = (k - 1) // 2
    f1, f2 = np.arange(n)[:, None], np.arange(n // 2 + 1)[None, :]
    spectrum = np.fft.rfft2(weight, (n, n)).transpose(2, 3, 0, 1).conj()
    spectrum = spectrum * np.exp(-2j * np.pi * shift * (f1 + f2) / n)[..., None, None]
    with jax.enable_x64(True):
        q = np.asarray(semi_orthogonal(jnp.asarray(spectrum)))
    z = np.einsum("hfoi,bihf->bohf", q, np.fft.rfft2(x))
    y = np.fft.irfft2(z, s=(n, n)) + oracle[f"{case}__bias"][:, None, None]
    np.testing.assert_allclose(y, oracle[f"{case}__y"], atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("method", every(3, ["expm", "cayley", "reflection"]))
def test_every_singular_value_is_one_for_a_large_generator(method):
    kernel = 20 * jax.random.normal(jax.random.key(0), (3, 3, 5, 5)) / np.sqrt(90)
    assert worst_singular_value(kernel, (7, 10), method) <= 5e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [(4, 7), (1, 6), *(pytest.param(s, marks=pytest.mark.slow) for s in [(6, 6), (5, 5), (7, 4), (2, 3), (1, 1)])],
)
@pytest.mark.parametrize(("kernel_size", "method"), [((3, 3), "expm"), ((5, 3), "cayley")])
def test_the_dense_matrix_is_orthogonal_at_every_size_and_for_kernels_larger_than_the_map(size, kernel_size, method):
    kernel = 0.3 * jax.random.normal(jax.random.key(3), (*kernel_size, 3, 3))
    matrix = dense(lambda x: orthogonal_convolve(x, kernel, unitary=method), size, 3)
    assert np.abs(matrix.T @ matrix - np.eye(len(matrix))).max() <= 5e-6
    assert np.abs(matrix - np.eye(len(matrix))).max() > 0.05


@pytest.mark.slow
def test_the_map_is_the_exponential_of_the_dense_skew_part():
    """An independent construction: the circular convolution as a matrix, its skew part, SciPy's exponential."""
    from scipy.linalg import expm

    h, w, c = 4, 5, 2
    kernel = np.asarray(0.3 * jax.random.normal(jax.random.key(4), (3, 3, c, c)), np.float64)
    matrix = np.zeros((h, w, c, h, w, c))
    for i in range(h):
        for j in range(w):
            for s in range(3):
                for t in range(3):
                    matrix[(i + s - 1) % h, (j + t - 1) % w, :, i, j, :] += kernel[s, t]
    matrix = matrix.reshape(h * w * c, -1)
    expected = expm((matrix - matrix.T) / 2)
    found = dense(lambda x: orthogonal_convolve(x, jnp.asarray(kernel, jnp.float32)), (h, w), c)
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cin", "cout"), [(3, 5), (5, 3), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((4, 4), (1, 3), (3, 1)))]
)
def test_unequal_channels_give_an_isometry_or_a_co_isometry(cin, cout):
    fresh = OrthogonalConv(cin, cout, use_bias=False, rngs=nnx.Rngs(1))
    for layer in (fresh, trained(fresh)):
        matrix = dense(layer, (5, 4), cin)
        values = np.linalg.svd(matrix, compute_uv=False)
        assert len(values) == 5 * 4 * min(cin, cout)
        assert np.abs(values - 1).max() <= 5e-6


@pytest.mark.slow
def test_one_set_of_parameters_is_the_same_filter_at_two_resolutions():
    """On a map with the period of the smaller size, both give the same values."""
    kernel = 0.2 * jax.random.normal(jax.random.key(5), (3, 3, 3, 3))
    x = jax.random.normal(jax.random.key(6), (1, 6, 5, 3))
    small = orthogonal_convolve(x, kernel)
    large = orthogonal_convolve(jnp.tile(x, (1, 2, 3, 1)), kernel)
    np.testing.assert_allclose(large, np.tile(small, (1, 2, 3, 1)), atol=2e-6)


@pytest.mark.slow
def test_chunks_of_frequencies_change_neither_values_nor_gradients(monkeypatch):
    kernel = 0.2 * jax.random.normal(jax.random.key(7), (3, 3, 3, 3))
    x = jax.random.normal(jax.random.key(8), (2, 7, 6, 3))

    def both():
        return jax.value_and_grad(lambda k, x: jnp.sum(orthogonal_convolve(x, k) ** 3), argnums=(0, 1))(kernel, x)

    whole = both()
    monkeypatch.setattr(spectrum, "CHUNK_BYTES", 8 * 9 * 5)  # five frequencies at a time, of 28
    chunked = both()
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@pytest.mark.slow
def test_the_gradient_equals_finite_differences():
    kernel = np.asarray(0.2 * jax.random.normal(jax.random.key(9), (3, 3, 2, 2)))
    x = jax.random.normal(jax.random.key(10), (1, 4, 5, 2))
    direction = np.random.default_rng(0).normal(size=kernel.shape)

    def loss(k):
        return jnp.sum(orthogonal_convolve(x, jnp.asarray(k, jnp.float32)) ** 3)

    step = 1e-2
    numeric = (loss(kernel + step * direction) - loss(kernel - step * direction)) / (2 * step)
    derivative = np.sum(np.asarray(jax.grad(loss)(jnp.asarray(kernel))) * direction)
    assert derivative == pytest.approx(float(numeric), rel=2e-2)


def test_the_kernel_starts_at_norm_one():
    kernel = OrthogonalConv(40, 40, rngs=nnx.Rngs(2)).kernel[...]
    phase = phases((3, 3), (9, 9))
    spectrum = np.einsum("ft,tab->fab", phase, np.asarray(kernel).reshape(9, 40, 40))
    norms = np.linalg.norm((spectrum - spectrum.conj().swapaxes(1, 2)) / 2, 2, axis=(1, 2))
    assert 0.6 < norms.mean() < 1.4


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"unitary": "cayley", "cout": 6}, {"unitary": "reflection"}, {"groups": 2}])
def test_every_product_of_a_layer_and_of_its_gradient_has_the_highest_precision(options):
    """TensorFloat-32 or bfloat16 would break orthogonality at 1e-3."""
    layer = OrthogonalConv(4, **{"cout": 4, **options}, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    program = jax.make_jaxpr(jax.grad(lambda p, x: nnx.merge(graphdef, p)(x).sum(), argnums=(0, 1)))
    text = str(program(params, jnp.ones((1, 4, 5, 4))))
    products = text.count("dot_general[")
    assert products > 3
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
