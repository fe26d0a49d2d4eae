"""Wavelet shrinkage: cycle spinning of the orthonormal transform in NumPy, slopes, its bound, and what it removes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import HALVES, check_half

from jaxiqa import lipschitz
from jaxiqa.layers import WaveletShrinkage, wavelet_shrink

RANDOM = np.random.default_rng(0)


def shrunk(x, threshold, levels):
    """Shrink the details of the orthonormal, decimated Haar transform of a map."""
    if not levels:
        return x
    blocks = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    haar = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    z = haar @ blocks @ haar.T
    kept = np.sign(z) * np.maximum(np.abs(z) - threshold, 0)
    kept[..., 0, 0] = shrunk(z[..., 0, 0], threshold, levels - 1)
    return (haar.T @ kept @ haar).transpose(0, 2, 1, 3).reshape(x.shape)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_it_is_the_mean_over_all_shifts_of_the_orthonormal_transform(levels):
    x = RANDOM.normal(size=(16, 24))
    shifts = [(i, j) for i in range(2**levels) for j in range(2**levels)]
    moved = [np.roll(shrunk(np.roll(x, s, (0, 1)), 0.7, levels), (-s[0], -s[1]), (0, 1)) for s in shifts]
    found = wavelet_shrink(jnp.asarray(x, jnp.float32)[None, ..., None], jnp.float32(0.7), levels=levels)
    np.testing.assert_allclose(found[0, ..., 0], np.mean(moved, 0), atol=2e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_maps_of_half_precision_are_rounded_once(dtype):
    check_half(wavelet_shrink, [RANDOM.normal(size=(2, 5, 7, 3)), np.array(0.5)], dtype)


@pytest.mark.parametrize("size", [(5, 7), (8, 6), (1, 4), (3, 1), (1, 1)])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 50.0])
def test_no_two_maps_move_apart(size, threshold):
    """Also for odd sides, and for sides that are shorter than the longest distance."""
    for seed in range(8):
        a = jax.random.normal(jax.random.key(seed), (1, *size, 2))
        b = a + 0.1 ** (seed % 4) * jax.random.normal(jax.random.key(100 + seed), a.shape)
        moved = [wavelet_shrink(x, jnp.float32(threshold)) for x in (a, b)]
        assert float(jnp.linalg.norm(moved[1] - moved[0])) <= float(jnp.linalg.norm(b - a)) * (1 + 1e-5)
        if threshold == 0:
            np.testing.assert_array_equal(moved[0], a)


def test_its_jacobian_is_symmetric_with_singular_values_up_to_one():
    x = jnp.asarray(RANDOM.normal(size=(1, 6, 9, 1)), jnp.float32)
    jacobian = np.asarray(jax.jacrev(lambda x: wavelet_shrink(x, jnp.float32(0.4)))(x)).reshape(54, 54)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-6)
    values = np.linalg.svd(jacobian, compute_uv=False)
    assert values.max() == pytest.approx(1, abs=1e-5)  # the mean of all pixels stays
    assert values.min() < 0.5


@pytest.mark.parametrize("levels", [1, 3])
def test_the_report_knows_its_bound(levels):
    assert 1 <= lipschitz.report(WaveletShrinkage(threshold=0.4, levels=levels), (6, 9, 3)).bound < 1 + 1e-3


def plain(x, threshold, levels=3):
    """Shift by `jnp.roll`, with JAX's own derivatives."""
    details = []
    for level in range(levels):
        left, above = jnp.roll(x, 2**level, 2), jnp.roll(x, 2**level, 1)
        both = jnp.roll(left, 2**level, 1)
        details.append([(x + a * left + b * above + a * b * both) / 4 for a, b in ((1, -1), (-1, 1), (-1, -1))])
        x = (x + left + above + both) / 4
    for level, bands in reversed(list(enumerate(details))):
        limit, signs = threshold / 2 ** (level + 1), ((1, 1), (1, -1), (-1, 1), (-1, -1))
        total = 0
        for (a, b), z in zip(signs, [x, *(z - jnp.clip(z, -limit, limit) for z in bands)], strict=True):
            right, below = jnp.roll(z, -(2**level), 2), jnp.roll(z, -(2**level), 1)
            total = total + (z + a * right + b * below + a * b * jnp.roll(right, -(2**level), 1)) / 4
        x = total
    return x


@pytest.mark.parametrize("shape", [(2, 8, 11, 3), (1, 5, 3, 1)])
def test_its_derivatives_are_those_of_the_plain_form(shape):
    x, v = jnp.asarray(RANDOM.normal(size=(2, *shape)), jnp.float32)
    t = jnp.asarray(np.linspace(0.2, 0.9, shape[-1]), jnp.float32)
    for function in (jax.jit, lambda f: f):
        new, old = (function(lambda x, t, f=f: jnp.sum(jnp.sin(f(x, t)) * v)) for f in (wavelet_shrink, plain))
        close = partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-5)
        close(wavelet_shrink(x, t), plain(x, t))
        jax.tree.map(close, jax.grad(new, (0, 1))(x, t), jax.grad(old, (0, 1))(x, t))
        jax.tree.map(close, jax.jvp(new, (x, t), (v, t)), jax.jvp(old, (x, t), (v, t)))
        twice = [jax.jvp(lambda x, f=f: jax.grad(f)(x, t), (x,), (v,))[1] for f in (new, old)]
        close(*twice)
        each = [jax.vmap(jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x[None], t)))))(x) for f in (wavelet_shrink, plain)]
        close(*each)


def test_channels_may_have_thresholds_of_their_own():
    x, own = jnp.asarray(RANDOM.normal(size=(2, 5, 7, 3)), jnp.float32), (0.1, 0.5, 2.0)
    block = WaveletShrinkage(threshold=own)
    alone = [wavelet_shrink(x[..., i : i + 1], jnp.float32(value)) for i, value in enumerate(own)]
    np.testing.assert_allclose(block(x), jnp.concatenate(alone, -1), atol=1e-6)
    assert 1 <= lipschitz.report(block, (6, 9, 3)).bound < 1 + 1e-3
    assert lipschitz.report(lambda x: wavelet_shrink(x, jnp.array([0.1, -0.5, 2.0])), (6, 9, 3)).bound > 2


def test_the_report_knows_it_with_and_without_the_default_levels():
    for options in ({}, {"levels": 3}, {"levels": 2}):
        found = lipschitz.report(lambda x, options=options: wavelet_shrink(x, 0.2, **options), (5, 4, 3), lower=False)
        assert found.bound == pytest.approx(1, abs=1e-5)


def test_a_negative_or_changing_threshold_has_the_bound_of_its_operations():
    assert lipschitz.report(lambda x: wavelet_shrink(x, -0.1), (6, 9, 3)).bound > 2
    assert lipschitz.report(lambda x: wavelet_shrink(x, x.mean()), (6, 9, 3)).bound > 2


def test_a_change_of_one_grey_level_disappears_where_the_image_is_smooth_and_edges_stay():
    ramp = np.where(np.arange(32) < 16, 0.2, 0.8)[None, None, :, None] + np.zeros((1, 32, 32, 3))
    signs = np.sign(RANDOM.normal(size=ramp.shape)) / 255
    block = WaveletShrinkage(threshold=4 / 255)
    clean, noisy = (np.asarray(block(jnp.asarray(x, jnp.float32))) for x in (ramp, ramp + signs))
    assert np.sqrt(np.mean((noisy - clean) ** 2)) < 0.25 / 255
    np.testing.assert_allclose(clean, ramp, atol=8 / 255)


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0.0}, {"threshold": -1.0}, {"threshold": 0.1, "levels": 0}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"threshold|levels"):
        WaveletShrinkage(**options)
