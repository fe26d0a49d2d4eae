"""Compiled functions that only move entries have the exact gain √(largest number of copies)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_maps import dense

from jaxiqa import lipschitz

MOVES = {
    "roll": lambda x: jnp.roll(x, (1, -2), (1, 2)),
    "flip": lambda x: jnp.flip(x, (1, 3)),
    "halves in a new order": lambda x: jnp.concatenate([x[:, 4:], x[:, :4]], 1).swapaxes(1, 2),
    "one row three times": lambda x: jnp.concatenate([x[:, :1], x, x[:, :1]], 1),
    "every second pixel": lambda x: x[:, ::2, 1::2],
    "inner functions": lambda x: jnp.roll(jax.jit(lambda y: y[..., ::-1])(x), 3, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
def test_the_gain_is_the_largest_singular_value(name):
    function = jax.jit(MOVES[name])
    report = lipschitz.report(function, (8, 8, 3))
    assert report.bound == pytest.approx(dense(function), rel=1e-6)
    assert all(row.exact for row in report.rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.concatenate([x[:, 1:], 2 * x[:, :1]], 1),
        lambda x: jnp.roll(jnp.abs(x), 1, 1) + x,
        lambda x: jnp.concatenate([x, jnp.ones((1, 2, 8, 3))], 1),
    ],
)
def test_other_functions_keep_their_rules(function):
    report = lipschitz.report(jax.jit(function), (8, 8, 3))
    assert report.bound >= dense(jax.jit(function)) * (1 - 1e-6)
    assert np.isfinite(report.bound)


def test_a_shift_that_depends_on_the_image_has_no_bound():
    found = lipschitz.report(lambda x: jnp.roll(x, jnp.int32(jnp.sum(x)), 1), (4, 4, 1))
    assert not np.isfinite(found.bound)


def test_names_of_compiled_functions_do_not_matter():
    @partial(jax.jit)
    def max_min(x):
        return x[..., ::-1]

    assert lipschitz.report(max_min, (3, 4, 2)).bound == 1
