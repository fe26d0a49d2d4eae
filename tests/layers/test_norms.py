"""`spectral_norm` against dense matrices, exact singular values, and the bound for all map sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import every

from jaxiqa.layers import spectral_norm
from jaxiqa.lipschitz.spectral import circular_singular_values, conv_norm

SHAPES = [
    ((3, 3, 4, 6), 1),
    ((3, 3, 6, 4), 1),
    ((1, 1, 5, 7), 1),
    ((5, 5, 1, 6), 6),
    ((3, 1, 2, 6), 2),
    ((2, 4, 3, 3), 1),
]


def kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_it_is_the_largest_singular_value_on_its_grid(shape, groups):
    exact = circular_singular_values(kernel(shape), (8, 8), groups=groups).max()
    assert float(spectral_norm(jnp.asarray(kernel(shape)), groups=groups, steps=300)) == pytest.approx(exact, rel=1e-4)
    few = float(spectral_norm(jnp.asarray(kernel(shape)), groups=groups))
    assert 0.95 * exact < few <= exact * (1 + 1e-5)


@pytest.mark.parametrize("taps", [2, 3, 4, 5, 7])
def test_what_it_misses_between_the_frequencies_is_bounded(taps):
    """Rotations by (i + j)·π/8: the norm, taps², is halfway between two frequencies of the grid, on both axes."""
    angles = np.pi / 8 * np.add.outer(np.arange(taps), np.arange(taps))
    rotations = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], -1)
    given = jnp.asarray(rotations.reshape(taps, taps, 2, 2))
    for grid in (8, 4 * taps + 4):
        found = float(spectral_norm(given, grid=grid, steps=100))
        assert taps**2 * np.cos(np.pi * (taps - 1) / (2 * max(grid, taps))) ** 2 <= found <= taps**2 * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_it_is_close_below_the_bound_for_all_maps(shape, groups, seed):
    bound = conv_norm(kernel(shape, seed), (40, 56), groups=groups).value
    assert 0.85 * bound < float(spectral_norm(jnp.asarray(kernel(shape, seed)), groups=groups)) <= bound * (1 + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "groups"), SHAPES[:4])
def test_its_gradient_is_that_of_the_largest_singular_value(shape, groups):
    given, along = kernel(shape), kernel(shape, 1)
    slope = float(jnp.vdot(jax.grad(lambda k: spectral_norm(k, groups=groups, steps=300))(jnp.asarray(given)), along))
    h = 1e-3
    ends = [circular_singular_values(given + s * h * along, (8, 8), groups=groups).max() for s in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("case", every(3, SHAPES))
def test_its_second_derivative_is_that_of_the_largest_singular_value(case):
    shape, groups = case
    given, along = kernel(shape), kernel(shape, 1)
    with jax.enable_x64(True):
        slope = jax.grad(lambda t: spectral_norm(given + t * jnp.asarray(along), groups=groups, steps=300))
        forward, reverse = (jax.jit(mode(slope))(0.0) for mode in (jax.jacfwd, jax.grad))
    h = 1e-3
    points = (given - h * along, given, given + h * along)
    low, middle, high = (circular_singular_values(point, (8, 8), groups=groups).max() for point in points)
    rounding = 1e-15 * high / h**2
    assert float(forward) == pytest.approx((high - 2 * middle + low) / h**2, rel=1e-3, abs=4 * rounding)
    assert float(reverse) == pytest.approx(float(forward), rel=1e-9)


@pytest.mark.slow
def test_a_zero_kernel_has_norm_and_derivatives_zero():
    value, gradient = jax.value_and_grad(lambda k: spectral_norm(k))(jnp.zeros((3, 3, 2, 2)))
    assert float(value) == 0
    assert bool((gradient == 0).all())
    slope = jax.grad(lambda k: spectral_norm(k, steps=3))
    for mode in (jax.jacfwd, jax.jacrev):
        assert bool((mode(slope)(jnp.zeros((2, 2, 2, 1))) == 0).all())


@pytest.mark.parametrize("options", [{"groups": 0}, {"grid": 0}, {"steps": 0}, {"groups": 4}])
def test_bad_numbers_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        spectral_norm(jnp.ones((3, 3, 2, 6)), **options)
