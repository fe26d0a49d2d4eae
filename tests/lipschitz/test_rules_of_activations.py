"""The constant of an activation is its largest slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.optimize import minimize_scalar

from jaxiqa.layers import smooth_relu6
from jaxiqa.lipschitz import report

SIGMOID = scipy.special.expit


ACTIVATIONS = {  # JAX's function, its derivative, and the point of the largest slope
    "silu": (jax.nn.silu, lambda x: SIGMOID(x) * (1 + x * SIGMOID(-x)), (2, 3)),
    "swish": (jax.nn.swish, lambda x: SIGMOID(x) * (1 + x * SIGMOID(-x)), (2, 3)),
    "mish": (
        jax.nn.mish,
        lambda x: np.tanh(np.logaddexp(x, 0)) + x * SIGMOID(x) / np.cosh(np.logaddexp(x, 0)) ** 2,
        (1, 2),
    ),
    "hard silu": (jax.nn.hard_silu, lambda x: (2 * x + 3) / 6, (-3, 3)),
    "hard swish": (jax.nn.hard_swish, lambda x: (2 * x + 3) / 6, (-3, 3)),
    "hard sigmoid": (jax.nn.hard_sigmoid, lambda x: 1 / 6 + 0 * x, (-1, 1)),
    "hard tanh": (jax.nn.hard_tanh, lambda x: 1 + 0 * x, (-1, 1)),
    "softsign": (jax.nn.soft_sign, lambda x: 1 / (1 + np.abs(x)) ** 2, (-1, 1)),
    "softplus": (jax.nn.softplus, SIGMOID, (30, 60)),
    "smooth ReLU6": (smooth_relu6, lambda x: np.clip(x + 0.5, 0, 1) - np.clip(x - 5.5, 0, 1), (2.5, 3.5)),
    "log sigmoid": (jax.nn.log_sigmoid, lambda x: SIGMOID(-x), (-60, -30)),
    "squareplus": (jax.nn.squareplus, lambda x: (1 + x / np.sqrt(x * x + 4)) / 2, (1e7, 2e7)),
    "squareplus of 9": (lambda x: jax.nn.squareplus(x, 9.0), lambda x: (1 + x / np.sqrt(x * x + 9)) / 2, (1e7, 2e7)),
    "sparse plus": (jax.nn.sparse_plus, lambda x: (x + 1) / 2, (-1, 1)),
    "ELU": (jax.nn.elu, np.exp, (-2, 0)),
    "ELU of 2.5": (lambda x: jax.nn.elu(x, 2.5), lambda x: 2.5 * np.exp(x), (-2, 0)),
    "ELU of 0.3": (lambda x: jax.nn.elu(x, 0.3), lambda x: 1 + 0 * x, (0, 1)),
    "ELU of a negative number": (lambda x: jax.nn.elu(x, -3.0), lambda x: 3 * np.exp(x), (-2, 0)),
    "CELU": (jax.nn.celu, np.exp, (-2, 0)),
    "CELU of 0.5": (lambda x: jax.nn.celu(x, 0.5), lambda x: np.exp(2 * x), (-2, 0)),
    "SELU": (jax.nn.selu, lambda x: 1.0507009873554805 * 1.6732632423543772 * np.exp(x), (-2, 0)),
    "leaky ReLU": (jax.nn.leaky_relu, lambda x: 1 + 0 * x, (0, 1)),
    "leaky ReLU, steep": (lambda x: jax.nn.leaky_relu(x, -4.0), lambda x: 4 + 0 * x, (-1, 0)),
    "sigmoid": (jax.nn.sigmoid, lambda x: SIGMOID(x) * SIGMOID(-x), (-1, 1)),
    "tanh": (jnp.tanh, lambda x: 1 / np.cosh(x) ** 2, (-1, 1)),
    "error function": (jax.scipy.special.erf, lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), (-1, 1)),
    "arctangent": (jnp.arctan, lambda x: 1 / (1 + x * x), (-1, 1)),
    "arsinh": (jnp.arcsinh, lambda x: 1 / np.sqrt(1 + x * x), (-1, 1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_constant_of_an_activation_is_its_largest_slope(name):
    """Accurate to 1e-12 if the slope has a closed form; no difference of JAX's own function exceeds it."""
    function, slope, ends = ACTIVATIONS[name]
    grid = np.linspace(*ends, 20001)
    best = grid[np.argmax(slope(grid))]
    near = (max(ends[0], best - (ends[1] - ends[0]) / 1e4), min(ends[1], best + (ends[1] - ends[0]) / 1e4))
    found = minimize_scalar(lambda x: -slope(x), bounds=near, method="bounded", options={"xatol": 1e-14})
    largest = max(-found.fun, slope(near[0]), slope(near[1]))
    bound = report(function, (2, 2, 3))
    assert bound.bound == pytest.approx(largest, rel=1e-12)
    assert all(row.exact for row in bound.rows)
    with jax.enable_x64(True):
        x = np.linspace(-30, 30, 600001)
        steepest = np.abs(np.diff(np.asarray(function(jnp.asarray(x))))).max() / (x[1] - x[0])
    assert 0.9 * bound.bound <= steepest <= bound.bound * (1 + 1e-6)
