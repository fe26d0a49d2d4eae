"""A function computed in float64 inside a float32 program equals the same function in x64 mode, derivatives too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.core.float64 import in_float64

X = jnp.array([0.3, -1.2, 0.7])
W = jax.random.normal(jax.random.key(0), (5, 4))


def plain(x, w):
    """A function whose transpose has types of its own: padding, a product, a reduction."""
    y = jnp.exp(jnp.pad(x, (1, 1)) @ w) + 1e7
    return {"sum": y.sum(-1) - 4e7, "first": y[..., 0] - 1e7}


HIGH = in_float64(plain)


def derivative(transform, function):
    return jax.jit(transform(lambda x: function(x, W.astype(x.dtype))["sum"]))


TRANSFORMS = {
    "value": lambda f: f,
    "gradient": jax.grad,
    "forward": jax.jacfwd,
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "third order": lambda f: jax.jacrev(jax.hessian(f)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_derivatives_are_those_of_x64_mode(name):
    found = derivative(TRANSFORMS[name], HIGH)(X)
    assert found.dtype == jnp.float32
    with jax.enable_x64(True):
        expected = derivative(TRANSFORMS[name], plain)(X.astype(jnp.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_float32_would_lose_the_result():
    assert abs(plain(X, W)["sum"] - HIGH(X, W)["sum"]) > 0.1


@pytest.mark.slow
def test_batches_by_vmap_in_any_axis():
    batch = jnp.stack([X, 2 * X, -X], axis=1)
    found = jax.vmap(HIGH, in_axes=(1, None))(batch, W)
    gradient = jax.vmap(jax.grad(lambda x, w: HIGH(x, w)["first"], argnums=1), in_axes=(1, None), out_axes=2)(batch, W)
    assert gradient.shape == (5, 4, 3)
    for i, x in enumerate((X, 2 * X, -X)):
        np.testing.assert_allclose(found["sum"][i], HIGH(x, W)["sum"], rtol=1e-6)
        np.testing.assert_allclose(gradient[..., i], jax.grad(lambda w, x=x: HIGH(x, w)["first"])(W), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "result"), [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float32), (jnp.float32, jnp.float32)]
)
def test_results_have_the_promoted_type_of_at_least_float32(given, result):
    x = X.astype(given)
    assert HIGH(x, W.astype(given))["first"].dtype == result
    assert jax.grad(lambda x: HIGH(x, W)["sum"])(x).dtype == given


def test_x64_mode_keeps_float64():
    with jax.enable_x64(True):
        assert HIGH(X.astype(jnp.float64), W.astype(jnp.float64))["sum"].dtype == jnp.float64


def test_an_argument_without_a_tangent_and_a_result_without_a_cotangent():
    np.testing.assert_allclose(
        jax.jvp(lambda x: HIGH(x, W)["first"], (X,), (X,))[1],
        jnp.dot(jax.grad(lambda x: HIGH(x, W)["first"])(X), X),
        rtol=1e-6,
    )
    assert np.all(jax.grad(lambda x: in_float64(lambda x: jnp.sum(jax.lax.stop_gradient(x)))(x))(X) == 0)


def test_it_works_in_loops_and_under_pmap():
    step = lambda i, x: x - 1e-3 * jax.grad(lambda x: HIGH(x, W)["sum"])(x)  # noqa: E731
    found = jax.jit(lambda x: jax.lax.fori_loop(0, 3, step, x))(X)
    expected = X
    for i in range(3):
        expected = step(i, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    both = jax.pmap(lambda x: HIGH(x, W)["sum"], devices=jax.local_devices()[:1])(X[None])
    np.testing.assert_allclose(both[0], HIGH(X, W)["sum"], rtol=1e-6)
