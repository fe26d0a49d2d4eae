"""Layers whose parameter is the orthogonal matrix: against the layers they come from, dense SVD, and the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from quick import every

from jaxiqa import layers, lipschitz
from jaxiqa.layers import DirectConv, DirectDense, OrthogonalConv, OrthogonalDense
from jaxiqa.layers.direct import completed, conjugates
from jaxiqa.train.manifold import on_manifold

FORMS = {
    "expm": {},
    "cayley": {"unitary": "cayley"},
    "groups": {"groups": 2},
    "band": {"band": 0.6},
    "wide": {"cout": 9},
    "narrow": {"cout": 3},
    "stride": {"stride": 2, "cout": 4},
}
SIZES = [(6, 8), (5, 7), (4, 5), (7, 2)]


def conv(size, cin=4, cout=4, **options):
    return OrthogonalConv(cin, cout, **options, rngs=nnx.Rngs(0))


def matrix(function, size, cin):
    """Return the matrix of an affine map of feature maps, column by column, in float64."""
    zero = np.asarray(function(jnp.zeros((1, *size, cin))), np.float64)
    basis = jnp.eye(np.prod(size) * cin).reshape(-1, *size, cin)
    return (np.asarray(function(basis), np.float64) - zero).reshape(len(basis), -1).T


def trained(layer, size, cin, *, steps=60, turns=1, rate=0.02):
    """Train with Adam on the manifold towards a random target."""
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(1), (2, *size, cin))
    target = jax.random.normal(jax.random.key(2), layer(x).shape)
    optimizer = on_manifold(rate, turns=turns)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(lambda p: jnp.mean((nnx.merge(graphdef, p, rest)(x) - target) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return nnx.merge(graphdef, params, rest), losses


@pytest.mark.slow
@pytest.mark.parametrize("size", every(2, SIZES))
@pytest.mark.parametrize("name", every(2, FORMS))
def test_it_is_the_layer_it_comes_from(name, size):
    size = (6, 8) if name == "stride" else size
    layer = conv(size, **FORMS[name])
    x = jax.random.normal(jax.random.key(1), (2, *size, 4))
    direct = DirectConv(layer, size)
    np.testing.assert_allclose(direct(x), layer(x), atol=2e-6)
    half = lambda z: z / 2  # noqa: E731
    np.testing.assert_allclose(direct(x, between=half), layer(x, between=half), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", every(4, SIZES))
@pytest.mark.parametrize("name", every(3, FORMS))
def test_it_is_orthogonal_before_and_after_training(name, size):
    size = (6, 8) if name == "stride" else size
    layer = DirectConv(conv(size, **FORMS[name]), size)
    after, losses = trained(layer, size, 4)
    assert losses[-1] < 0.9 * losses[0]
    for found in (layer, after):
        values = np.linalg.svd(matrix(found, size, 4), compute_uv=False)
        np.testing.assert_allclose(values[values > 1e-3], 1, atol=5e-6)
        assert (values > 1e-3).sum() == min(matrix(found, size, 4).shape)


@pytest.mark.slow
@pytest.mark.parametrize("turns", every(2, [2, 4]))
def test_frequencies_may_take_turns(turns):
    size = (8, 6)
    after, losses = trained(DirectConv(conv(size), size), size, 4, turns=turns)
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(np.linalg.svd(matrix(after, size, 4), compute_uv=False), 1, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("band", [1.0, 0.6])
@pytest.mark.parametrize("size", every(4, [(6, 8), (5, 7), (4, 5), (7, 2), (1, 4), (3, 1)]))
def test_frequencies_are_conjugates_so_the_map_is_real(size, band):
    layer, _ = trained(DirectConv(conv(size, band=band), size), size, 4, steps=20)
    z = np.asarray(completed(jax.lax.complex(*layer.unitary_matrices[...]), size, band))
    here, there = conjugates(size, band)
    np.testing.assert_array_equal(z[here], z[there].conj())
    np.testing.assert_allclose(np.linalg.svd(z, compute_uv=False), 1, atol=5e-6)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (7, 2), (1, 4), (3, 1), (1, 1), (2, 2)])
def test_conjugates_by_brute_force(size):
    h, w = size
    stored = [(a, b) for a in range(h) for b in range(w // 2 + 1)]
    twin = {(a, b): (-a % h, -b % w) for a, b in stored}
    expected = [(stored.index(f), stored.index(twin[f])) for f in stored if twin[f] in stored]
    assert list(zip(*(found.tolist() for found in conjugates(size)), strict=True)) == expected


@pytest.mark.parametrize(("cin", "cout"), [(5, 5), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_dense_layers(cin, cout):
    layer = DirectDense(cin, cout, use_bias=True, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.linalg.svd(layer.orthogonal_matrix[...], compute_uv=False), 1, atol=2e-6)
    source = OrthogonalDense(cin, cout, use_bias=True, rngs=nnx.Rngs(1))
    x = jax.random.normal(jax.random.key(0), (2, 3, cin))
    np.testing.assert_allclose(DirectDense.of(source)(x), source(x), atol=1e-6)


def test_both_determinants_are_drawn():
    signs = [np.linalg.det(DirectDense(3, 3, rngs=nnx.Rngs(i)).orthogonal_matrix[...]) for i in range(8)]
    assert {round(float(sign)) for sign in signs} == {-1, 1}


def test_a_whole_block_becomes_direct_and_its_bound_is_confirmed():
    block = layers.RobustBlock(6, 4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 6))
    direct = layers.to_direct(block, (5, 7), channels=6)
    np.testing.assert_allclose(direct(x), block(x), atol=2e-6)
    assert not [m for _, m in nnx.iter_modules(direct) if isinstance(m, OrthogonalConv | OrthogonalDense)]
    conv = lipschitz.report(layers.to_direct(OrthogonalConv(4, 4, rngs=nnx.Rngs(0)), (5, 6)), (5, 6, 4))
    assert conv.bound == pytest.approx(1, abs=1e-4)


def test_wrong_uses_are_refused():
    reflection = OrthogonalConv(4, 4, unitary="reflection", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unitary='reflection' stores no unitary matrices"):
        DirectConv(reflection, (4, 4))
    with pytest.raises(ValueError, match="5x4 map cannot be divided by stride=2"):
        DirectConv(OrthogonalConv(4, 4, stride=2, rngs=nnx.Rngs(0)), (5, 4))
    with pytest.raises(ValueError, match="maps of 4x4 and was given one of 4x5"):
        DirectConv(OrthogonalConv(4, 4, rngs=nnx.Rngs(0)), (4, 4))(jnp.zeros((1, 4, 5, 4)))
    with pytest.raises(ValueError, match="cin"):
        DirectDense(0, 3, rngs=nnx.Rngs(0))
