"""Circular shifts, absolute values, global pooling and resizing: constants by dense SVD, and by the report."""

import inspect
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import lipschitz
from jaxiqa.layers import (
    DirectDense,
    beta_abs,
    circular_shift,
    contracting_resize,
    global_l2_pool,
    resize_constant,
    sorted_energies,
)

SIZES = [(6, 8), (5, 7), (10, 1), (7, 2)]


def matrix(function, shape):
    """Return the matrix of a linear map of ``1 h w c``, in float64."""
    basis = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.asarray(jax.vmap(lambda x: function(x[None]).ravel())(basis), np.float64).T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("distance", "share", "channels"), [(1, 0.5, 8), (2, 1.0, 5), (3, 0.9, 9), (1, 0.0, 4), (1, 1.0, 3)]
)
def test_a_shift_is_a_permutation(size, distance, share, channels):
    found = matrix(lambda x: circular_shift(x, distance=distance, share=share), (*size, channels))
    np.testing.assert_array_equal(found @ found.T, np.eye(len(found)))
    report = lipschitz.report(lambda x: circular_shift(x, distance=distance, share=share), (*size, channels))
    assert report.bound == 1


def test_groups_of_channels_move_in_four_directions():
    x = jnp.zeros((1, 5, 5, 9)).at[0, 2, 2].set(1.0)
    moved = circular_shift(x, distance=2, share=0.9)  # ⌊0.9·9/4⌋ = 2 channels per direction
    places = [tuple(np.argwhere(np.asarray(moved[0, :, :, c]))[0].tolist()) for c in range(9)]
    assert places == [(4, 2)] * 2 + [(0, 2)] * 2 + [(2, 4)] * 2 + [(2, 0)] * 2 + [(2, 2)]


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (0.5, 3), (0.99, 5), (1.0, 6)])
def test_absolute_values_of_a_share_of_the_channels(share, changed):
    x = jax.random.normal(jax.random.key(0), (2, 7, 4, 6))
    y = beta_abs(x, share=share)
    np.testing.assert_array_equal(y[..., :changed], jnp.abs(x[..., :changed]))
    np.testing.assert_array_equal(y[..., changed:], x[..., changed:])
    report = lipschitz.report(lambda x: beta_abs(x, share=share), (7, 4, 6))
    assert report.bound == 1


@pytest.mark.parametrize("size", SIZES)
def test_global_pooling_has_the_norms_of_channels_and_constant_one(size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    np.testing.assert_allclose(global_l2_pool(x), np.sqrt((np.asarray(x) ** 2).sum((1, 2))), rtol=1e-6)
    assert lipschitz.report(global_l2_pool, (*size, 3)).bound == 1
    jacobian = jax.jacobian(lambda x: global_l2_pool(x[None])[0])(x[0]).reshape(3, -1)
    np.testing.assert_allclose(np.linalg.svd(jacobian, compute_uv=False), 1, atol=1e-6)
    assert not jnp.any(jax.grad(lambda x: global_l2_pool(x).sum())(jnp.zeros((1, *size, 3))))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("cell", "groups"), [(1, 4), (2, 3), (3, 1), (4, 7)])
def test_sorted_energies_by_hand_and_with_constant_one(size, cell, groups):
    x = jax.random.normal(jax.random.key(1), (2, *size, 3))
    tops, lefts = (range(0, side, cell) for side in size)
    per_group = -(-len(tops) * len(lefts) // groups)
    for image, energies in zip(np.asarray(x), sorted_energies(x, cell, groups), strict=True):
        for c in range(3):
            parts = [image[top : top + cell, left : left + cell, c] for top in tops for left in lefts]
            cells = sorted(((part**2).sum() for part in parts), reverse=True)
            expected = [np.sqrt(sum(cells[g * per_group : (g + 1) * per_group])) for g in range(groups)]
            np.testing.assert_allclose(energies[:, c], expected, rtol=1e-5)
    pooled = jax.jit(lambda x: sorted_energies(x, cell, groups))
    assert lipschitz.report(pooled, (*size, 3)).bound == 1
    jacobian = jax.jacobian(lambda x: pooled(x[None])[0])(x[0]).reshape(groups * 3, -1)
    sigma = np.linalg.svd(np.asarray(jacobian, np.float64), compute_uv=False)
    assert sigma.max() == pytest.approx(1, abs=1e-6)
    assert not jnp.any(jax.grad(lambda x: pooled(x).sum())(jnp.zeros((1, *size, 3))))


@pytest.mark.slow
def test_sorted_energies_ignore_places_and_never_amplify():
    x = jax.random.normal(jax.random.key(2), (1, 6, 8, 2))
    cells = x.reshape(1, 3, 2, 4, 2, 2)[:, ::-1][:, :, :, jnp.array([2, 0, 3, 1])].reshape(x.shape)
    np.testing.assert_allclose(sorted_energies(cells, 2, 5), sorted_energies(x, 2, 5), rtol=1e-6)
    y = x + jax.random.normal(jax.random.key(3), (200, 6, 8, 2)) * jnp.logspace(-1, 1, 200)[:, None, None, None]
    moved = sorted_energies(y, 2, 5) - sorted_energies(x, 2, 5)
    ratios = jnp.linalg.norm(moved.reshape(200, -1), axis=1) / jnp.linalg.norm((y - x).reshape(200, -1), axis=1)
    assert ratios.max() <= 1 + 1e-5
    assert ratios.max() > 0.3


@pytest.mark.parametrize(
    ("shape", "start"),
    [((4, 3), np.ones((4, 3))), ((4, 3), np.eye(3)), ((2, 3), np.eye(3)), ((3, 3), np.full((3, 3), np.nan))],
)
def test_a_dense_layer_starts_from_an_orthonormal_matrix_only(shape, start):
    with pytest.raises(ValueError, match="start"):
        DirectDense(shape[1], shape[0], start=start, rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "new"), [((6, 8), (3, 4)), ((5, 7), (5, 7)), ((4, 3), (9, 11)), ((9, 4), (5, 8)), ((1, 6), (3, 2))]
)
def test_the_constant_of_a_resize(size, new):
    resize = lambda x: jax.image.resize(x, (1, *new, 1), "bilinear", antialias=True)  # noqa: E731
    expected = np.linalg.norm(matrix(resize, (*size, 1)), 2)
    assert resize_constant(size, new) == pytest.approx(expected, rel=1e-5)
    assert resize_constant(size, new) >= expected * (1 - 1e-6)
    found = np.linalg.norm(matrix(lambda x: contracting_resize(x, new), (*size, 1)), 2)
    assert found == pytest.approx(min(1, expected), rel=1e-5)
    assert lipschitz.report(lambda x: contracting_resize(x, new), (*size, 1)).bound == pytest.approx(found, rel=1e-4)


def clear_constants():
    inspect.unwrap(resize_constant).__globals__["_largest"].cache_clear()


def test_a_resize_of_one_size_is_traced_first():
    """Its constant is a number of the program, not of the trace, also before an eager call."""
    clear_constants()
    x = jnp.ones((1, 8, 9, 3))
    np.testing.assert_allclose(jax.jit(lambda x: contracting_resize(x, (11, 7)))(x), contracting_resize(x, (11, 7)))
    clear_constants()
    assert lipschitz.report(lambda x: contracting_resize(x, (5, 7)).sum((1, 2, 3)), (9, 11, 3)).bound < 20


def test_the_constant_of_a_long_image_needs_little_memory():
    tracemalloc.start()
    assert 0 < resize_constant((20_000, 16), (256, 256)) < 1
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 4e8  # a square matrix would take 3.2e9 bytes


def test_wrong_uses_are_refused():
    x = jnp.zeros((1, 2, 2, 4))
    with pytest.raises(ValueError, match=r"share=1\.5"):
        circular_shift(x, share=1.5)
    with pytest.raises(ValueError, match=r"share=-0\.1"):
        beta_abs(x, share=-0.1)
    for sizes, message in {
        ((4, 4), (0, 4)): "new=0 is not allowed",
        ((4, 4), (2, 2, 3)): r"new=\(2, 2, 3\) is not allowed",
        ((4, 4, 3), (2, 2, 3)): r"size=\(4, 4, 3\) is not allowed",
        ((4.5, 4), (2, 2)): "size=4.5 is not allowed",
    }.items():
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(resize_constant)(*sizes)  # without the type checks of the tests
    assert inspect.unwrap(resize_constant)([8, 6], [4, 3]) == resize_constant((8, 6), (4, 3))
