"""The norm-controlled tail: its bound holds against pairs of features and power iteration, and is nearly reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every

from jaxiqa.lipschitz import report
from jaxiqa.lipschitz.spectral import power_iteration
from jaxiqa.nn.lipschitz_tail import LipschitzTail, pad_to_even, tail_constant

CASES = [((8, 8), 6, 4, 2), ((5, 7), 4, 8, 1), pytest.param(((9, 6), 5, 6, 3), marks=pytest.mark.slow)]
"""(size of the features, their channels, channels of the tail, depth): even, odd and non-square; fewer and more."""


def tail_of(features, channels, depth, slope=3.0):
    tail = LipschitzTail(features, channels=channels, depth=depth, rngs=nnx.Rngs(0))
    tail.log_slope[...] = jnp.log(jnp.array([slope], jnp.float32))
    tail.offset[...] = jnp.array([0.7])
    return tail


@pytest.mark.parametrize(("size", "pixels"), [((8, 8), 16), ((5, 7), 12), ((1, 1), 1)])
def test_the_constant_is_that_of_the_mean(size, pixels):
    """Oracle: the norm of a row of 1/n."""
    assert tail_constant(size, depth=2) == pytest.approx(np.linalg.norm(np.full((1, pixels), 1 / pixels), 2))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_report_confirms_slope_times_constant(case):
    size, features, channels, depth = case
    found = report(tail_of(features, channels, depth), (*size, features), lower=False).bound
    assert found == pytest.approx(3.0 * tail_constant(size, depth=depth), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("case", every(2, CASES))
def test_no_attack_exceeds_the_bound(case):
    size, features, channels, depth = case
    tail, bound = tail_of(features, channels, depth), 3.0 * tail_constant(size, depth=depth)
    x = jax.random.normal(jax.random.key(0), (16, *size, features))
    steps = jax.random.normal(jax.random.key(1), x.shape) * jnp.logspace(-2, 1, 16)[:, None, None, None]
    moved = np.abs(np.asarray(tail(x + steps) - tail(x))) / np.linalg.norm(np.reshape(steps, (16, -1)), axis=1)
    assert moved.max() <= bound * (1 + 1e-4)
    # The Jacobian in a point, and along its top direction.
    score = lambda z: tail(z)[0]  # noqa: E731
    steepest = float(power_iteration(lambda z: tail(z), x[:1], jax.random.key(2), steps=10))
    assert steepest == pytest.approx(float(jnp.linalg.norm(jax.grad(score)(x[:1]))), rel=1e-3)
    assert steepest <= bound * (1 + 1e-4)


@pytest.mark.slow
def test_the_bound_is_reached_where_nothing_is_reduced():
    """One layer of as many channels as the features: every map is orthogonal, so the gradient has the norm of the
    constant at every point."""
    tail = tail_of(4, 4, 1)
    gradient = jax.grad(lambda z: tail(z)[0])(jax.random.normal(jax.random.key(3), (1, 6, 5, 4)))
    assert float(jnp.linalg.norm(gradient)) == pytest.approx(3.0 * tail_constant((6, 5), depth=1), rel=1e-4)


def test_padding_keeps_norms():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
    assert pad_to_even(x).shape == (2, 6, 4, 4)
    np.testing.assert_allclose(jnp.linalg.norm(pad_to_even(x)), jnp.linalg.norm(x), rtol=1e-6)


@pytest.mark.slow
def test_training_cannot_make_it_steeper_than_its_slope():
    """Large random weights instead of the initial ones: the bound stays slope times the constant."""
    tail = tail_of(6, 4, 2)
    graph, params, rest = nnx.split(tail, nnx.Param, ...)
    leaves, tree = jax.tree.flatten(params)
    random = [
        5 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(jax.random.split(jax.random.key(4), len(leaves)), leaves, strict=True)
    ]
    wild = nnx.merge(graph, jax.tree.unflatten(tree, random), rest)
    wild.log_slope[...] = jnp.log(jnp.array([0.5], jnp.float32))
    assert report(wild, (8, 9, 6), lower=False).bound == pytest.approx(0.5 * tail_constant((8, 9), depth=2), rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 5, "depth": 1}, "channels=5 is odd; MaxMin sorts pairs"),
        ({"channels": 4, "depth": 0}, "depth=0 is outside"),
        ({"channels": 0, "depth": 1}, "channels=0 is outside"),
    ],
)
def test_faults_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LipschitzTail(3, rngs=nnx.Rngs(0), **options)
