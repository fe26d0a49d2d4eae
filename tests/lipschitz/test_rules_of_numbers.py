"""Rules where a number meets an array: the bound counts every copy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_maps import KNOWN, ROW, SIZE, dense
from quick import every

from jaxiqa.lipschitz import certified_interval, report


def clamp(low, x, high):
    """Clamp; `jax.lax.clamp` cannot be differentiated by a scalar bound, so float64 uses another form."""
    return jax.lax.clamp(low, x, jnp.asarray(high, x.dtype)) if x.dtype == jnp.float32 else jnp.clip(x, low, high)


NUMBER_MEETS_ARRAY = {  # function, allowed ratio of the bound to the truth
    "minus its smallest": (lambda x: x - x.min(), 1.08),
    "plus its mean": (lambda x: x + x.mean(), 1.01),
    "its mean, copied by a product": (lambda x: jnp.ones((1, 50)) * x.mean(), 1.001),
    "times known numbers": (lambda x: ROW * x.mean(), 1.001),
    "known numbers times it": (lambda x: x[0, 0, 0, 0] * KNOWN, 1.001),
    "divided by known numbers": (lambda x: x[0, 0, 0, 0] / (2 + jnp.abs(ROW)), 1.001),
    "known numbers minus it": (lambda x: KNOWN - x.max(), 1.001),
    "the larger of it and an array": (lambda x: jnp.maximum(x, 4 * x.mean()), 1.5),
    "the larger of it and known numbers": (lambda x: jnp.maximum(ROW, x[0, 0, 0, 0]), 1.001),
    "the smaller": (lambda x: jnp.minimum(5 + 0 * ROW, x[0, 0, 0, 0]), 1.001),
    "clamped between numbers": (lambda x: clamp(x.min(), 2 * x, x.max()), 12),
    "a number clamps known ones": (lambda x: clamp(x[0, 0, 0, 0], jnp.full((9,), -20.0, x.dtype), jnp.inf), 1.001),
    "an imaginary part": (lambda x: jax.lax.complex(x, x.mean()), 1.001),
    "a real part": (lambda x: jax.lax.complex(x.sum(), jnp.ones((5, 4), x.dtype)), 1.001),
    "twice": (lambda x: (x - x.mean()) + x.sum(), 1.2),
    "in a function": (lambda x: jax.jit(lambda a, b: a + b)(x, x.sum()), 1.08),
    "means of channels, scaled": (lambda x: x.mean((1, 2), keepdims=True) * KNOWN, 1.001),
    "a column times rows": (lambda x: x[:, :, :1, 0] * ROW[0], 1.001),
    "a row divided by columns": (lambda x: x[0, 0, :1] / (2 + jnp.abs(ROW[:, :3])), 1.001),
    "divided along two axes": (lambda x: x[:, :1, :, :1] / (2 + jnp.abs(KNOWN)), 1.001),
    "minus the means of rows": (lambda x: x - x.mean(2, keepdims=True), 2.01),
    "plus a column": (lambda x: KNOWN + x[:, :, :1, :1], 1.001),
    "the larger of it and a column": (lambda x: jnp.maximum(x[..., :1], KNOWN), 1.001),
    "outer product": (lambda x: jnp.outer(x, ROW[0]), 1.001),
    "Kronecker product": (lambda x: jnp.kron(x[0, :, :, 0], ROW[:2, :3]), 1.001),
    "padded by a ramp": (lambda x: jnp.pad(x, ((0, 0), (2, 1), (1, 3), (0, 0)), "linear_ramp"), 1.1),
    "slopes of channels": (lambda x: jax.nn.leaky_relu(x[..., :1], jnp.array([0.1, -2.0, 3.0], x.dtype)), 1.001),
    "slopes of ELU": (lambda x: jax.nn.elu(x[..., :1], jnp.array([0.5, 1.0, 3.0], x.dtype)), 1.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, NUMBER_MEETS_ARRAY))
def test_the_bound_counts_every_copy_of_a_broadcast_number(name):
    function, loose = NUMBER_MEETS_ARRAY[name]
    bound, truth = report(function, SIZE).bound, dense(function)
    assert truth <= bound * (1 + 1e-6) <= loose * truth * (1 + 1e-5)


def test_the_reported_numbers_are_correct():
    assert 13.856 <= report(NUMBER_MEETS_ARRAY["minus its smallest"][0], SIZE).bound <= 14.857
    assert report(lambda x: x + x.mean(), SIZE).bound == pytest.approx(2.0)
    assert report(lambda x: jnp.ones((1, 50)) * x.mean(), SIZE).bound == pytest.approx(math.sqrt(50 / 192))


@pytest.mark.slow
def test_a_certified_interval_holds_against_gradient_ascent_where_a_mean_is_added():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)) / 6, jnp.float32)

    def score(x):
        return jax.nn.relu(x @ matrix + x.mean((1, 2, 3), keepdims=True)).mean((1, 2, 3))

    def scalar(x):
        return jax.nn.relu(x @ matrix + x.mean()).mean()[None]

    x = jnp.full((1, *SIZE), 0.4)
    for function in (score, scalar):
        low, high = certified_interval(function, x, 1.0, report(function, SIZE))
        for sign, bound in ((1, high), (-1, low)):
            y = x
            for _ in range(60):
                y = y + 0.2 * sign * jax.grad(lambda y: function(y).sum())(y)  # noqa: B023
                change = y - x
                y = x + change / jnp.maximum(1.0, jnp.linalg.norm(change))
            assert sign * float(function(y)[0]) <= sign * float(bound[0]) + 1e-6
