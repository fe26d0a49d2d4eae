"""Dropout: rates, independence, and numbers that belong to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quick import every, only

from jaxiqa.models import MODELS
from jaxiqa.nn.dropout import Dropout, dropout, set_dropout


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(3, 4000), (2, 40, 50, 3)])
def test_the_share_of_zeros_and_the_mean_are_right(rate, shape):
    y = np.asarray(dropout(jnp.ones(shape), keys(shape[0]), rate))
    count = y.size
    assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / count)
    np.testing.assert_allclose(y[y > 0], 1 / (1 - rate), rtol=1e-6)
    assert not np.array_equal(y[0], y[1])


def test_whole_maps_are_dropped_for_all_pixels():
    y = np.asarray(dropout(jnp.ones((2, 5, 6, 200)), keys(2), 0.3, whole_maps=True))
    assert (y == y[:, :1, :1]).all()
    assert 0.2 < (y[:, 0, 0] == 0).mean() < 0.4


def test_the_numbers_of_an_image_do_not_depend_on_the_batch():
    x = jnp.arange(40.0).reshape(4, 10) + 1
    whole, own = dropout(x, keys(4), 0.5), keys(4)
    np.testing.assert_array_equal(whole[2:3], dropout(x[2:3], own[2:3], 0.5))


class Two(nnx.Module):
    def __init__(self):
        self.first, self.second = Dropout(0.5), Dropout(0.5)

    def __call__(self, x):
        return self.first(x), self.second(x), self.first(x)


@pytest.mark.slow
def test_layers_and_passes_differ_and_nothing_drops_before_training():
    model, x = Two(), jnp.ones((2, 64))
    assert all((y == x).all() for y in model(x))
    set_dropout(model, keys(2))
    a, b, c = model(x)
    assert all(not np.array_equal(p, q) for p, q in ((a, b), (a, c), (b, c)))


RATES = {
    "koncept512": [0.25, 0.25, 0.5],
    "metaiqa": [0.5, 0.5],
    "paq2piq": [0.25, 0.5],
    "tres": [0.1] * 4 + [0.5] * 8,
}
"""As in the published networks, in any order."""


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, MODELS))
def test_metrics_have_the_published_dropout(name):
    model = nnx.eval_shape(
        lambda: MODELS[name].metric(rngs=nnx.Rngs(0), **({"backbone": "resnet18"} if name == "linearity" else {}))
    )
    rates = [module.rate for _, module in nnx.iter_modules(model) if isinstance(module, Dropout)]
    assert sorted(rates) == sorted(RATES.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("name", only(("paq2piq",), ("koncept512", "tres", "metaiqa", "paq2piq")))
def test_training_drops_and_scoring_does_not(name):
    options = {"koncept512": {"backbone": "mobilenet_v2", "width": 4}, "tres": {"backbone": "resnet18", "width": 4}}
    model = MODELS[name].metric(rngs=nnx.Rngs(0), **options.get(name, {"width": 4}))
    pixels = jax.random.uniform(jax.random.key(1), (2, 224, 224, 3))

    @jax.jit
    def outputs(state, own):
        merged = nnx.merge(graph, state, copy=True)
        if own is not None:
            set_dropout(merged, own)
        return merged.item_outputs(pixels)["score"]

    graph, state = nnx.split(model)
    plain, again, other = (outputs(state, own) for own in (None, keys(2), keys(2, seed=1)))
    np.testing.assert_allclose(plain, jax.jit(lambda m: m.raw(pixels))(model), rtol=1e-5, atol=1e-6)
    assert not np.allclose(again, plain, rtol=1e-6)
    assert not np.allclose(again, other, rtol=1e-6)
