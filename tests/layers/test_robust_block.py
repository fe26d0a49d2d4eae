import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa.layers.pooling import square_pool
from jaxiqa.layers.robust_block import Bottleneck, RobustBlock, low_pass_mask
from jaxiqa.layers.shrinkage import soft_threshold
from jaxiqa.layers.spectrum import unitary_spectrum

X = jax.random.normal(jax.random.key(0), (2, 7, 9, 8))


def paper_block(**options):
    options = {"pool": "square", "padding": "VALID", **options}
    return RobustBlock(8, 4, rngs=nnx.Rngs(0), **options)


@pytest.mark.slow
def test_defect_scale_always_one():
    """In the paper's block the scale of the kernel has no effect, and the map is within 0.025 of [I; 0]."""
    block = paper_block()
    u = np.asarray(unitary_spectrum(block.orthogonal.kernel[...], (29, 29)).matrices[:, 0])
    distance = np.linalg.norm(u - np.eye(4), axis=(1, 2)) / np.linalg.norm(np.eye(4))
    assert distance.min() > 0.1
    doubled = np.asarray(unitary_spectrum(2 * block.orthogonal.kernel[...], (29, 29)).matrices[:, 0])
    assert np.linalg.norm(doubled - u) > 0.1 * np.linalg.norm(u)
    signal = block.orthogonal(block.reduce(X)) - block.orthogonal.bias[...]
    energy = np.sum(np.square(signal), axis=(0, 1, 2))
    assert energy[4:].sum() > 0.2 * energy.sum()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(7, 9), (9, 7), (29, 29), (6, 5), (5, 6)])
def test_defect_odd_widths_lose_a_column(size):
    """In the paper's block 29×29 becomes 29×28, with a smaller norm."""
    block = RobustBlock(8, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, *size, 8))
    y = block(x)
    assert y.shape == x.shape
    middle, signal = block.reduce(x), y - block.orthogonal.bias[...]
    assert float(jnp.linalg.norm(signal)) == pytest.approx(float(jnp.linalg.norm(middle)), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reduce": "orthogonal"}, {"unitary": "cayley"}, {"shrink": 0.1}])
def test_defect_block_never_trained(options):
    """Every parameter of the block has a gradient, and a few steps change its output."""
    block = RobustBlock(8, 4, rngs=nnx.Rngs(0), **options)
    graphdef, params = nnx.split(block)
    target = jax.random.normal(jax.random.key(2), X.shape)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean((nnx.merge(graphdef, p)(X) - target) ** 2)))
    before = block(X)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    for _ in range(5):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient(params))
    assert float(jnp.abs(nnx.merge(graphdef, params)(X) - before).max()) > 1e-2


def lipschitz(block, size=(5, 4)):
    x = jnp.ones((1, *size, block.orthogonal.cout))
    jacobian = np.asarray(jax.jacobian(lambda x: block(x).ravel())(x), np.float64)
    return np.linalg.svd(jacobian.reshape(len(jacobian), -1), compute_uv=False)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shrink": 0.3}, {"low_pass": 0.5}, {"shrink": 0.3, "low_pass": 0.6}])
def test_the_orthogonal_form_is_one_lipschitz(options):
    values = lipschitz(RobustBlock(8, 4, reduce="orthogonal", rngs=nnx.Rngs(3), **options))
    assert values.max() <= 1 + 1e-5
    assert values.max() > 0.5


@pytest.mark.slow
def test_without_options_the_orthogonal_form_keeps_mid_directions_exactly():
    values = lipschitz(RobustBlock(8, 4, reduce="orthogonal", rngs=nnx.Rngs(3)))
    np.testing.assert_allclose(values[: 5 * 4 * 4], 1, atol=1e-5)
    np.testing.assert_allclose(values[5 * 4 * 4 :], 0, atol=1e-5)


def test_the_low_band_removes_high_frequencies_and_keeps_the_mean():
    block = RobustBlock(8, 4, reduce="orthogonal", low_pass=0.5, rngs=nnx.Rngs(4))
    spectrum = np.abs(np.fft.fft2(np.asarray(block(X)), axes=(1, 2)))
    assert spectrum[:, 3:5].max() < 1e-4  # rows 3 and 4 of 7 lie above half of the Nyquist frequency
    assert spectrum[:, 0, 0].max() > 0.1


def test_soft_threshold_is_the_proximal_map_and_has_a_gradient_at_zero():
    z = np.array([[3 + 4j, 0.3 + 0.4j, 0j]])
    np.testing.assert_allclose(soft_threshold(jnp.asarray(z, jnp.complex64), jnp.ones(3)), [[2.4 + 3.2j, 0, 0]])
    gradient = jax.grad(lambda x: soft_threshold(x + 0j, jnp.ones(2)).real.sum())(jnp.zeros((1, 2)))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("size", "side"),
    [((498, 664), 488), ((125, 166), 122), ((63, 83), 61), ((32, 42), 31), ((22, 30), 21), ((8, 8), 8)],
)
def test_the_square_has_the_papers_side_in_both_orientations(size, side):
    for shape in (size, size[::-1]):
        assert jax.eval_shape(square_pool, jnp.zeros((1, *shape, 2))).shape == (1, side, side, 2)


def test_the_square_pool_takes_maxima_of_windows():
    x = np.random.default_rng(0).normal(size=(1, 3, 5, 1)).astype(np.float32)
    expected = [[x[0, i : i + 2, j : j + 4].max() for j in range(2)] for i in range(2)]
    np.testing.assert_array_equal(square_pool(jnp.asarray(x))[0, :, :, 0], expected)


def test_the_papers_form_has_the_papers_shape():
    block = RobustBlock(16, 8, pool="square", padding="VALID", unitary="cayley", rngs=nnx.Rngs(0))
    assert jax.eval_shape(block, jnp.zeros((1, 32, 42, 16))).shape == (1, 29, 29, 16)


@pytest.mark.slow
def test_1024_channels_at_32_by_42_train_without_gigabytes():
    block = nnx.eval_shape(lambda: RobustBlock(1024, 200, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(block)
    x = jax.ShapeDtypeStruct((1, 32, 42, 1024), jnp.float32)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(nnx.merge(graphdef, p)(x) ** 2), argnums=(0, 1)))
    memory = gradient.lower(params, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1e9, f"{memory.temp_size_in_bytes / 1e6:.0f} MB"


def test_the_bottleneck_has_the_blocks_shapes_and_is_not_orthogonal():
    control = Bottleneck(8, 4, rngs=nnx.Rngs(0))
    assert control(X).shape == X.shape
    assert not any("orthogonal" in str(path) for path, _ in nnx.iter_graph(control))


@pytest.mark.slow
@pytest.mark.parametrize("size", every(3, [(9, 13), (13, 9), (10, 10)]))
@pytest.mark.parametrize("options", [{}, {"pool": "square"}, {"pool": "square", "padding": "VALID"}], ids=str)
def test_the_bottleneck_pools_and_pads_as_the_block_does(size, options):
    x = jax.random.normal(jax.random.key(0), (1, *size, 8))
    block, control = (kind(8, 4, rngs=nnx.Rngs(0), **options) for kind in (RobustBlock, Bottleneck))
    assert control(x).shape == block(x).shape
    if "pool" in options:
        control.pool = None
        np.testing.assert_array_equal(control(square_pool(x)), Bottleneck(8, 4, rngs=nnx.Rngs(0), **options)(x))
        with pytest.raises(ValueError, match=r"pool='max' is not allowed; choose from None, 'square'"):
            Bottleneck(8, 4, pool="max", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "options",
    [
        {"mid": 9},
        {"mid": 0},
        {"pool": "max"},
        {"reduce": "none"},
        {"unitary": "qr"},
        {"low_pass": 0.0},
        {"shrink": -1.0},
    ],
)
def test_errors_name_the_bad_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RobustBlock(8, **{"mid": 4, **options}, rngs=nnx.Rngs(0))


def test_a_map_that_is_too_small_is_named():
    with pytest.raises(ValueError, match="3x4 map"):
        paper_block()(jnp.ones((1, 3, 4, 8)))


def test_a_frequency_on_the_edge_of_the_band_is_kept():
    kept = low_pass_mask((10, 10), 0.6)[:, 0].astype(int).tolist()
    assert kept == [1, 1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_maps_of_another_width_are_refused():
    block = RobustBlock(8, 4, reduce="orthogonal", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="takes 8"):
        block(jnp.ones((1, 5, 5, 1)))
    with pytest.raises(ValueError, match="too small"):
        square_pool(jnp.ones((1, 1, 5, 2)))
    assert np.isfinite(RobustBlock(8, 4, shrink=100.0, rngs=nnx.Rngs(0)).threshold[...]).all()
