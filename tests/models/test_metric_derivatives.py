"""Every metric has derivatives of both modes and of the second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from test_published_report import OPTIONS

from jaxiqa.models import MODELS, score_fn


def score_of(name):
    options, size = OPTIONS[name]
    metric = tiny.filled(nnx.eval_shape(lambda: MODELS[name].build(**options, rngs=nnx.Rngs(0))))
    return score_fn(metric, size), jax.random.uniform(jax.random.key(0), (1, *size, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_forward_mode_agrees_with_the_gradient(name):
    score, images = score_of(name)
    direction = jax.random.normal(jax.random.key(1), images.shape)
    both = jax.jit(lambda x, v: (jax.jvp(score, (x,), (v,))[1], (jax.grad(lambda x: score(x).sum())(x) * v).sum()))
    forward, reverse = both(images, direction)
    assert np.isfinite(reverse)
    assert reverse != 0
    np.testing.assert_allclose(forward.sum(), reverse, rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_second_derivatives_can_be_traced_in_both_modes(name):
    score, images = score_of(name)
    gradient = jax.grad(lambda x: score(x).sum())
    shapes = jax.eval_shape(lambda x: jax.jvp(gradient, (x,), (x,))[1], images)
    again = jax.eval_shape(jax.grad(lambda x: jnp.sum(gradient(x) ** 2)), images)
    assert shapes.shape == again.shape == images.shape
