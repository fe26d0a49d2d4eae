import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import HALVES, check_derivatives, check_float64, check_half
from flax import nnx
from quick import every

from jaxiqa.nn.transformer import attend, attention, gelu, layer_norm

RANDOM = np.random.default_rng(0)
TOKENS = [RANDOM.normal(size=shape) for shape in ((2, 5, 4), (2, 3, 4), (2, 3, 6))]
CASES = {
    "gelu": (gelu, [RANDOM.normal(size=(3, 5))]),
    "attention": (attention, TOKENS),
    "attention with a bias": (attention, [*TOKENS, RANDOM.normal(size=(1, 5, 3))]),
    "attend": (lambda q, k, v: attend(q, k, v, heads=2), [TOKENS[0], TOKENS[1], TOKENS[1][::-1]]),
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_float32_rounded_once(name, dtype):
    check_half(*CASES[name], dtype)


@pytest.mark.parametrize("name", CASES)
def test_float64_is_never_narrowed(name):
    check_float64(*CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, CASES))
def test_forward_mode_and_second_order(name):
    check_derivatives(*CASES[name])


def plain(q, k, v, bias=0.0):
    return jax.nn.softmax(jnp.einsum("...nc,...mc->...nm", q, k) + bias) @ v


@pytest.mark.slow
@pytest.mark.parametrize("bias_shape", [None, (1, 2, 5, 7), (3, 2, 5, 7)])
def test_gradients_of_attention_are_those_of_its_formula(bias_shape):
    shapes = [(3, 2, 5, 4), (3, 2, 7, 4), (3, 2, 7, 6)] + [bias_shape] * (bias_shape is not None)
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    weights = jax.random.normal(jax.random.key(9), (3, 2, 5, 6))
    places = tuple(range(len(arrays)))
    ours, theirs = (
        jax.value_and_grad(lambda *x, f=f: jnp.sum(f(*x) * weights), argnums=places)(*arrays)
        for f in (attention, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_gelu_is_exact():
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


def test_layer_norm_is_accurate_far_from_zero():
    """The mean of squares minus the square of the mean would lose the variance."""
    layer = layer_norm(64, epsilon=1e-6, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, 64)) + 3000
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), expected, atol=1e-3)
